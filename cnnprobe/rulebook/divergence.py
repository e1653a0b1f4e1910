"""A loss that grows without end."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import loss_calls, variable
from cnnprobe.rulebook.material import classifying, perceptron

TIMES = 10.0  # times the first loss of the same batch


def sick() -> Mapping[str, Any]:
    """A learning rate of 100."""
    import torch

    model = perceptron()
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=100.0))


def healthy() -> Mapping[str, Any]:
    """A rate of 0.1."""
    import torch

    model = perceptron()
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


@rule(
    code="CP509",
    name="divergence",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    monitored=True,
    explains=("constant-output", "ignored-input", "dead-relu", "loss-not-decreasing"),
)
def divergence(evidence: Evidence) -> Iterator[Finding]:
    """The loss of one batch grows to ten times what it was, or stops being a number, while it is
    trained on.

    Why it matters: what follows is noise or NaN.
    What to do: see the findings that explain it; most often the learning rate, the sign of the
    loss, or gradients that are not cleared.
    Known exceptions: loops with several losses (GANs); a contrastive loss that rises to that of
    guessing, while its queue fills with real features.
    Source: the losses of the observed steps.
    """
    losses = [step.value for step in evidence.steps]
    if (
        len(losses) < 2
        or losses[0] is None
        or not math.isfinite(losses[0])
        or any(len(step.losses) > 1 for step in evidence.steps)
    ):
        return
    for number, value in enumerate(losses[1:], start=2):
        bad = value is not None and not math.isfinite(value)
        if bad or (
            number == len(losses)
            and value is not None
            and losses[0] > 0
            and value > TIMES * losses[0]
            and value > 1.0
            and value > _guess_contrast(evidence)
        ):
            yield Finding(
                module=None,
                message=(
                    f"the loss of the same batch went from {losses[0]:.3g} to {value:.3g} in "
                    f"{number} steps (more than {TIMES:g} times, or not a number)"
                ),
                fix=(
                    f"lower the learning rate of {variable(evidence, 'optimizer')}, and clip the "
                    "gradients"
                ),
            )
            return


def _guess_contrast(evidence: Evidence) -> float:
    """The loss of guessing, ln(C), where the step itself makes the targets of a cross-entropy; 0
    where it does not.
    """
    return max(
        (
            math.log(loss.prediction.shape[1])
            for loss in loss_calls(evidence)
            if loss.operation == "cross_entropy"
            and len(loss.prediction.shape) == 2
            and loss.flow.producer(loss.target) is not None
        ),
        default=0.0,
    )
