"""Steps that overshoot."""

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, Evidence, Flow, argument, describe, operation
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying, perceptron

DIVERGED = 10.0  # times the first loss, as for divergence
WHOLE = 1.0  # first update over weight; 1e-3 is usual (Karpathy, CS231n)
SAME = 1e-6  # greatest difference between samples over the output's magnitude: rounding of float32
RISE = 1.5  # times the first loss
UNMOVED = 1e-4  # of the loss; a fall of less proves nothing of a slower run
MANY = 64  # values; fewer are the terms of a loss
FLOOR = 0.1  # absolute rise below which a loss has only moved


def _training(rate: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=rate))


def sick() -> Mapping[str, Any]:
    """A rate of 100."""
    return _training(100.0)


def healthy() -> Mapping[str, Any]:
    """A rate of 0.5."""
    return _training(0.5)


@rule(
    code="CP506",
    name="lr-too-high",
    severity=Severity.INFO,
    examples=(sick, healthy),
    explains=(
        "divergence",
        "loss-not-decreasing",
        "dead-relu",
        "update-ratio",
        "nan-backward",
        "saturated-activation",
        "constant-output",
        "ignored-input",
        "zero-grad",
    ),
)
def lr_too_high(evidence: Evidence) -> Iterator[Finding]:
    """The loss of one and the same batch rises under the optimizer, and falls with a thousandth of
    the learning rate.

    Why it matters: each step jumps over the valley; ReLUs die, losses become NaN.
    What to do: divide the learning rate by 10 until the loss of one batch falls. Where the loss
    is the sum over a batch, divide it by the number of samples: the rate then suits any batch.
    Known exceptions: loops with several losses (GANs). It is info unless the loss grew tenfold, the
    outputs became all the same, or the first step changed the weights by more than their size.
    Source: both runs were made from the same state; Smith 2017, arXiv:1506.01186, on finding the
    range.
    """
    losses = [step.value for step in evidence.steps]
    slower = next((r for r in evidence.replays if r.factor < 1), None)
    first = losses[0] if losses else None
    if (
        slower is None
        or first is None
        or first <= 0
        or any(len(step.losses) > 1 for step in evidence.steps)
    ):
        return
    values = [value if value is not None and math.isfinite(value) else math.inf for value in losses]
    last, peak = values[-1], max(values)
    end = slower.losses[-1] if slower.losses else None
    falls = end is not None and math.isfinite(end) and end < first
    ratio = first_update(evidence)
    ruined = (
        last > DIVERGED * first or _collapsed(evidence) or (ratio > WHOLE and peak > RISE * first)
    )
    is_clear = ruined or (falls and end is not None and first - end > UNMOVED * first)
    risen = (last > RISE * first and last > first + FLOOR) or (ruined and peak > first + FLOOR)
    if risen and falls and is_clear:
        rate = max((r for o in evidence.optimizers for r in o.rates), default=math.nan)
        name = evidence.optimizers[0].name if evidence.optimizers else "optimizer"
        summed = _find_undivided(evidence)
        yield Finding(
            module=None,
            severity=Severity.WARNING if ruined else None,
            message=(
                f"the loss of the same batch went from {first:.3g} up to {peak:.3g} in "
                f"{len(losses)} steps (more than {RISE:g} times) at a learning rate of {rate:g}; "
                f"at {rate * slower.factor:g} it falls from {first:.4g} to {end:.4g}"
            )
            + (f"; the loss is a sum: {summed}, and nothing divides it" if summed else ""),
            fix=("divide the loss by the number of samples, or " if summed else "")
            + f"lower lr of {name} tenfold, to {rate / 10:g} and then {rate / 100:g}, until the "
            f"loss of one batch falls: it does at {rate * slower.factor:g}, which may be too slow",
        )


def first_update(evidence: Evidence) -> float:
    """The median over the weights of what the first step changed, relative to their size; 0 where
    it is not known.
    """
    ratios = [
        change / value.norm
        for name, change in evidence.steps[0].changes.items()
        if (value := evidence.values.get(name)) is not None
        and len(value.shape) > 1
        and value.norm > 0
    ]
    return statistics.median(ratios) if ratios else 0.0


def _collapsed(evidence: Evidence) -> bool:
    """Whether the steps have made the outputs of different samples the same."""
    before, after = evidence.probes.spread, evidence.probes.spread_after
    return before is not None and after is not None and before > SAME >= after


def _find_undivided(evidence: Evidence) -> str:
    """The first row on the way to the loss that adds up all values of a batch and is not divided
    afterwards, and how many values these are; "" where there is none.
    """
    flow = Flow(evidence.steps[0].trace)
    ends = [loss.call for loss in evidence.steps[0].losses if loss.call is not None]
    toward = set(ends).union(*(flow.before(end) for end in ends)) if ends else set()
    for i in sorted(toward):
        call = flow.calls[i]
        count = math.prod(call.inputs[0].shape) if call.inputs else 0
        if not _adds_up(call) or count < MANY or flow.owner(i) is not None:
            continue
        after = [flow.calls[k] for k in flow.after(i) & toward]
        if not any(operation(each) in ("div", "mean") or _scales(each) for each in after):
            return f"{describe(call)} adds up {count:,} values"
    return ""


def _adds_up(call: ModuleCall) -> bool:
    """Whether a row gives the sum of all values of its input, or of a loss of each."""
    if not call.outputs or call.outputs[0].shape != () or not call.outputs[0].requires_grad:
        return False
    kind = operation(call)
    return kind == "sum" or (kind in LOSSES and argument(call, "reduction") == "sum")


def _scales(call: ModuleCall) -> bool:
    """Whether a row multiplies by a small number, as 1 / N is."""
    numbers = [v for v in call.arguments.values() if isinstance(v, float)]
    return operation(call) == "mul" and any(abs(number) < 1 / 8 for number in numbers)
