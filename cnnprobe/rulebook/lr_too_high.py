"""Steps that overshoot."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import Evidence
from cnnprobe.rulebook.material import classifying, perceptron

RISE = 1.5  # times the first loss
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
    """The loss of one and the same batch rises under the optimizer, and falls with a hundredth of the learning rate.

    Why it matters: each step jumps over the valley; ReLUs die, losses become NaN.
    What to do: divide the learning rate by 10 until the loss of one batch falls.
    Known exceptions: loops with several losses (GANs), and losses that rise and come back within the observed steps.
    Source: both runs were made from the same state; Smith 2017, arXiv:1506.01186, on finding the range.
    """
    losses = [step.value for step in evidence.steps]
    slower = next((r for r in evidence.replays if r.factor < 1), None)
    first = losses[0] if losses else None
    if slower is None or first is None or first <= 0 or any(len(step.losses) > 1 for step in evidence.steps):
        return
    last = losses[-1] if losses[-1] is not None else math.inf
    end = slower.losses[-1] if slower.losses else None
    risen = not math.isfinite(last) or (last > RISE * first and last > first + FLOOR)
    falls = end is not None and math.isfinite(end) and end < first
    if risen and falls:
        rate = max((r for o in evidence.optimizers for r in o.rates), default=math.nan)
        name = evidence.optimizers[0].name if evidence.optimizers else "optimizer"
        yield Finding(
            module=None,
            message=f"the loss of the same batch went from {first:.3g} to {last:.3g} in {len(losses)} steps (more than {RISE:g} times) at a learning rate of {rate:g}; at {rate * slower.factor:g} it falls to {end:.3g}",
            fix=f"lower lr of {name} to {rate / 10:g} or less",
        )
