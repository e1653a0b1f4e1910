"""What correct formulas of distributions have in common: a draw with a learned deviation, the
divergence from the standard normal distribution, a likelihood.

Each check gives what is expected and what was found; None where the property holds, or where the
function takes something else than it is tried with.
"""

import math
import re

import torch

from cnnprobe.training.formula_calls import Call, find_normal, first_tensor

NEAR = 0.02  # relative, of numbers that are equal but for rounding and eps
DRAWS = 20_000  # of a deviation, whose own is then 0.5 %
CUTTING = frozenset({"clamp", "clamp_", "clamp_min", "clip", "max", "maximum", "relu"})  # free bits
Found = tuple[str, str] | None


def check_reparametrisation(call: Call) -> Found:
    """Mean + std * noise, with the deviation that the spread stands for."""
    names = find_normal(call)
    if names is None:
        return None
    mean, spread, to_deviation = names
    value = torch.full((DRAWS // 4, 4), 1.5)
    drawn = first_tensor(call.again(**{mean: torch.zeros_like(value), spread: value}))
    if drawn is None or drawn.shape != value.shape:
        return None
    actual, wanted = float(drawn.std()), [float(d.mean()) for d in to_deviation(value)]
    if actual < 1e-3 or any(abs(actual - w) < 0.05 * w for w in wanted):
        return None  # 0: without noise in eval mode
    return f"a deviation of {wanted[0]:.3g} for {spread} = 1.5", f"{actual:.3g}"


def check_divergence(call: Call) -> Found:
    """The divergence from the standard normal distribution, but for a factor and a constant."""
    names = find_normal(call)
    is_named = re.search("kl|diverg|elbo|vae", call.name.lower()) or len(call.tensors()) > 3
    if names is None or not is_named or CUTTING & set(call.function.__code__.co_names):
        return None
    mean, spread, to_deviation = names
    shape = call.arguments[mean].shape
    is_log = "log" in spread.lower()
    points = [(0.0, 0.4), (0.0, -0.9), (1.1, 0.0), (-0.6, 0.7)]
    given = [(m, s if is_log else math.exp(s)) for m, s in points]

    def compute(m: float, s: float) -> float:
        return call.number(**{mean: torch.full(shape, m), spread: torch.full(shape, s)})

    least = compute(0.0, 0.0 if is_log else 1.0)
    values = [compute(m, s) - least for m, s in given]
    wanted = [
        [_diverge(m, float(to_deviation(torch.tensor(s))[k])) for m, s in given]
        for k in range(len(to_deviation(torch.ones(()))))
    ]
    if any(_is_multiple(values, each) for each in wanted) or not any(values):
        return None
    k = next((k for k, v in enumerate(values) if v * values[2] < 0), None)
    if k is not None:
        return (
            f"{mean} = 0 with a deviation of 1 is where it is smallest",
            f"it is {abs(values[k]):.3g} less for {spread} = {given[k][1]:.3g}",
        )
    pair = [v / wanted[0][0] * wanted[0][2] for v in values[:1]]
    return (
        f"{pair[0]:.3g} at {mean} = 1.1, by its value at {spread} = {given[0][1]:.3g}",
        f"{values[2]:.3g}",
    )


def _diverge(mean: float, deviation: float) -> float:
    return 0.5 * (mean**2 + deviation**2 - 1) - math.log(deviation)


def check_likelihood(call: Call) -> Found:
    """The likelihood of a normal distribution is greatest where the deviation is the error."""
    names, tensors = find_normal(call), call.tensors()
    others = [k for k in tensors if names is not None and k not in names[:2]]
    if names is None or len(others) != 1:
        return None
    mean, spread, to_deviation = names
    shape = call.arguments[mean].shape
    is_log = "log" in spread.lower()

    def compute(s: float) -> float:
        value = torch.full(shape, s)
        return call.number(
            **{mean: torch.zeros(shape), spread: value, others[0]: torch.full(shape, 1.7)}
        )

    grid = [-1.0 + 0.05 * k for k in range(81)] if is_log else [0.3 + 0.05 * k for k in range(81)]
    values = [compute(s) for s in grid]
    if not all(map(math.isfinite, values)):
        return None
    found = [grid[values.index(extreme(values))] for extreme in (min, max)]
    made = [float(d) for s in found for d in to_deviation(torch.tensor(s))]
    if any(abs(d - 1.7) < 0.12 for d in made):
        return None
    return "greatest at a deviation of 1.7 for an error of 1.7", f"at {made[0]:.3g}"


def _is_multiple(values: list[float], wanted: list[float]) -> bool:
    ratios = [v / w for v, w in zip(values, wanted, strict=True)]
    return max(ratios) - min(ratios) < NEAR * max(abs(r) for r in ratios)
