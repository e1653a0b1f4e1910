"""What correct formulas of labels have in common: a focal loss, labels that are smoothed.

Each check gives what is expected and what was found; None where the property holds, or where the
function takes something else than it is tried with.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cnnprobe.training.formula_calls import Call, find_pair, first_tensor

NEAR = 0.02  # relative, of numbers that are equal but for rounding, eps and smoothing
Found = tuple[str, str] | None
Single = list[tuple[Tensor, Tensor, float]]  # output, target, the probability of the label


def check_focal(call: Call) -> Found:
    """(1 - p) ** gamma, beside the cross entropy, of the label's probability p."""
    gamma = call.setting("gamma")
    if gamma is None or gamma <= 0:
        return None
    for label in (1, 0):
        slopes = _list_slopes(call, label)
        if not slopes or any(_is_focal(each, gamma) for each in slopes):
            continue
        flat = min(slopes, key=lambda each: max(each) - min(each))
        return (
            f"a weight of (1 - p) ** {gamma:g} for the probability p of the label {label}",
            _describe_weight(flat),
        )
    return None


def _is_focal(slopes: list[float], gamma: float) -> bool:
    """Whether the weight falls with that power; that of a reduced focal loss from some p on only.

    The step before the first of its power holds the threshold, and may be any number.
    """
    near = [abs(s - gamma) < 0.05 * gamma for s in slopes]
    flat = [abs(s) < NEAR for s in slopes]
    if True not in near:
        return False
    first = near.index(True)
    before = slopes[max(first - 1, 0) : first]
    return all(near[first:]) and all(flat[: max(first - 1, 0)]) and not any(map(math.isnan, before))


def _describe_weight(slopes: list[float]) -> str:
    """What weighs the cross entropy, by its powers of (1 - p) between neighbouring p."""
    if any(math.isnan(s) for s in slopes):
        return "no weight at all at a small p, where the model is most wrong"
    if max(slopes) < 0:
        return "one that grows with p"
    if max(slopes) - min(slopes) > 0.2:
        return "a loss that is no power of (1 - p) times -log(p)"
    return f"(1 - p) ** {sum(slopes) / len(slopes):.2g}"


def check_binary(call: Call) -> Found:
    """-log(p) of the label's probability p, but for a factor."""
    for label in (1, 0):
        slopes = _list_slopes(call, label)
        if slopes and all(max(map(abs, each)) > NEAR for each in slopes):
            return f"a multiple of -log(p) for the label {label} of probability p", "another curve"
    return None


def _list_slopes(call: Call, label: int) -> list[list[float]]:
    """To which power of (1 - p) the cross entropy is weighted, by what the output may be."""
    pair = find_pair(call)
    if pair is None:
        return []
    output, target = (call.arguments[name] for name in pair)
    slopes = []
    for given in _list_single(output, target, label):
        with contextlib.suppress(Exception):  # it does not take this kind
            values = [call.number(**{pair[0]: o, pair[1]: t}) for o, t, _ in given]
            if not any(values) or math.inf in values:
                continue  # it does not read this label, or not by itself: a mean over positives
            logs = [
                (math.log(v / -math.log(p)) if v else math.nan, math.log(1 - p))
                for v, (_, _, p) in zip(values, given, strict=True)
            ]
            steps = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(logs)]
            slopes.append(steps)
    return slopes


def _list_single(output: Tensor, target: Tensor, label: int) -> Iterator[Single]:
    """One sample at a time: by itself, and as the class of several."""
    sizes = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
    for is_logit in _list_kinds(output):
        if output.numel() == target.numel():
            made = []
            for p in sizes:
                mine = p if label else 1 - p
                value = math.log(mine / (1 - mine)) if is_logit else mine
                made.append((torch.full_like(output[:1], value), _fill(target[:1], label), p))
            yield made
        if output.dim() > 1 and output.shape[1] > 1 and label:
            yield [_make_classes(output, target, p, is_logit=is_logit) for p in sizes]


def _make_classes(
    output: Tensor, target: Tensor, p: float, *, is_logit: bool
) -> tuple[Tensor, Tensor, float]:
    """A sample whose label is class 0, of probability p."""
    n = output.shape[1]
    row = torch.full((n,), (1 - p) / (n - 1))
    row[0] = p
    shape = [1, n] + [1] * (output.dim() - 2)
    made = (row.log() if is_logit else row).reshape(shape).expand_as(output[:1])
    wanted = _fill(target[:1], 0)
    if target.shape == output.shape:
        wanted = wanted.clone()
        wanted[:, 0] = 1
    return made.to(output).contiguous(), wanted, p


def _fill(tensor: Tensor, value: float) -> Tensor:
    return torch.full_like(tensor, value)


def _list_kinds(output: Tensor) -> tuple[bool, ...]:
    """What an output may be: logits, and probabilities where all of it is in [0, 1]."""
    is_probability = bool((output >= 0).all()) and bool((output <= 1).all())
    return (True, False) if is_probability else (True,)


def check_smoothing(call: Call) -> Found:
    """A smoothed target sums to 1: a number added to all logits of a sample changes nothing."""
    pair = find_pair(call)
    if pair is None:
        return _check_smoothed(call)
    output, target = (call.arguments[name] for name in pair)
    is_classes = output.is_floating_point() and output.dim() == target.dim() + 1
    if not is_classes or _is_normalised(output):
        return None
    before, after = (call.number(**{pair[0]: output + k}) for k in (0.0, 5.0))
    if abs(after - before) < 1e-3 * max(abs(before), 1.0):
        return None
    return "the same where 5 is added to all logits", f"{before:.4g} and {after:.4g}"


def _check_smoothed(call: Call) -> Found:
    made = first_tensor(call.again())
    if made is None or made.dim() < 2 or made.shape[1] < 2 or float(made.max()) > 1:
        return None
    sums = made.sum(1)
    if float((sums - 1).abs().max()) < 1e-3:
        return None
    return "labels that sum to 1", f"sums of {float(sums.min()):.3g} to {float(sums.max()):.3g}"


def _is_normalised(output: Tensor) -> bool:
    """Whether the output is one of probabilities, or of their logarithms."""
    sums = (output.logsumexp(1).abs(), (output.sum(1) - 1).abs())
    return any(float(apart.max()) < 1e-3 for apart in sums)
