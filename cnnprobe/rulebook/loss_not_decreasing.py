"""A loss that does not fall on the one batch that it is trained on."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import Evidence
from cnnprobe.rulebook.material import classifying, perceptron

LEAST = 20  # steps before it is judged
FALL = 0.01  # relative to the first loss


def _training(rate: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=rate), steps=LEAST)


def sick() -> Mapping[str, Any]:
    """A rate of 1e-7."""
    return _training(1e-7)


def healthy() -> Mapping[str, Any]:
    """A rate of 0.01."""
    return _training(0.01)


@rule(code="CP510", name="loss-not-decreasing", severity=Severity.WARNING, examples=(sick, healthy))
def loss_not_decreasing(evidence: Evidence) -> Iterator[Finding]:
    """After at least 20 steps on one batch, with equal dropout masks, the loss is not 1% lower.

    Why it matters: a small enough step along the gradient always lowers the loss of its own batch.
    What to do: see the findings that explain it; else lower the learning rate, then look at what the loss is made of.
    Known exceptions: fewer than 20 steps, loops with several losses, losses near 0.
    Source: Karpathy 2019, "A Recipe for Training Neural Networks", "overfit one batch".
    """
    losses = [step.value for step in evidence.steps]
    if len(losses) < LEAST or any(len(step.losses) != 1 for step in evidence.steps) or losses[0] is None or losses[-1] is None:
        return
    if abs(losses[0]) > 1e-2 and not losses[-1] < losses[0] - FALL * abs(losses[0]):
        yield Finding(
            module=None,
            message=f"the loss of the same batch went from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps (less than 1% lower)",
            fix="check learning rate, sign and targets of the loss",
        )
