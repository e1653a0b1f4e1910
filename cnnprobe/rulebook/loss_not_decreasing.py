"""A loss that does not fall on the one batch that it is trained on."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import falls_steadily, owner, trainable, warms_up
from cnnprobe.records.trace import TensorInfo
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


@rule(
    code="CP510",
    name="loss-not-decreasing",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
)
def loss_not_decreasing(evidence: Evidence) -> Iterator[Finding]:
    """After at least 20 steps on one batch, with equal dropout masks, the loss is not 1% lower.

    Why it matters: a small enough step along the gradient always lowers the loss of its own batch.
    What to do: see the findings that explain it; else lower the learning rate, then look at what
    the loss is made of.
    Known exceptions: fewer than 20 steps, loops with several losses, losses near 0, a loss that
    nearly every step lowers and that does not slow down, as a small learning rate makes it, a
    learning rate that a scheduler has yet to raise from 0; losses that depend on what gets no
    gradient and moves all the same: values of a trained layer that are detached, or a state that
    the forward keeps (a queue, the mean of a teacher).
    Source: Karpathy 2019, "A Recipe for Training Neural Networks", "overfit one batch".
    """
    losses = [step.value for step in evidence.steps]
    if (
        len(losses) < LEAST
        or any(len(step.losses) != 1 for step in evidence.steps)
        or losses[0] is None
        or losses[-1] is None
    ):
        return
    if (
        warms_up(evidence)
        or evidence.probes.keeps_state
        or falls_steadily(losses)
        or _chases(evidence)
    ):
        return
    if abs(losses[0]) > 1e-2 and not losses[-1] < losses[0] - FALL * abs(losses[0]):
        yield Finding(
            module=None,
            message=(
                f"the loss of the same batch went from {losses[0]:.4g} to {losses[-1]:.4g} in "
                f"{len(losses)} steps (less than 1% lower)"
            ),
            fix="check learning rate, sign and targets of the loss",
        )


def _chases(evidence: Evidence) -> bool:
    """Whether the loss has trained values in it that are held fixed for the gradient, beside others
    that are not: they move with each step.
    """
    made = evidence.steps[0].losses[0].call
    flow, learning = Flow(evidence.steps[0].trace), {owner(name) for name in trainable(evidence)}
    behind = flow.before(made) if made is not None else set()
    fixed = [
        i
        for i in behind
        if flow.is_primitive[i]
        and any(_is_value(o) and not o.requires_grad for o in flow.calls[i].outputs)
    ]
    return any(
        any(t.requires_grad and isinstance(t.source, int) for t in flow.calls[i].inputs)
        or (flow.calls[i].fqn in learning)
        for i in fixed
        if operation(flow.calls[i]) not in ARRANGING
    )


def _is_value(info: TensorInfo) -> bool:
    return info.dtype.startswith(("float", "bfloat")) and math.prod(info.shape) > 1
