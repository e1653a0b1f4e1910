"""A model that cannot learn one batch by heart."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import Evidence
from cnnprobe.evidence.questions import loss_calls
from cnnprobe.rulebook.material import classifying, images, perceptron

LEAST = 50  # steps before it is judged
SHARE = 0.5  # of the first loss


def _training(separable: bool) -> Mapping[str, Any]:
    import torch

    torch.manual_seed(0)
    inputs = images() if separable else images(1).expand(8, 1, 8, 8).clone()
    model = perceptron()
    return classifying(model, inputs=inputs, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2), steps=LEAST)


def sick() -> Mapping[str, Any]:
    """The same image under four labels."""
    return _training(separable=False)


def healthy() -> Mapping[str, Any]:
    """Eight images."""
    return _training(separable=True)


@rule(code="CP511", name="cannot-overfit", severity=Severity.WARNING, examples=(sick, healthy))
def cannot_overfit(evidence: Evidence) -> Iterator[Finding]:
    """After at least 50 steps on a single batch the loss is still more than half of what it was.

    Why it matters: a network with more parameters than samples can learn a batch by heart; one that cannot has a fault in it or in its data.
    What to do: see the findings that explain it; else raise the learning rate, check that labels belong to their inputs, and that inputs differ.
    Known exceptions: fewer than 50 steps; losses other than classification, whose least value is not known.
    Source: Karpathy 2019, "A Recipe for Training Neural Networks", "overfit one batch".
    """
    losses = [step.value for step in evidence.steps]
    if len(losses) < LEAST or losses[0] is None or losses[-1] is None or any(len(step.losses) != 1 for step in evidence.steps):
        return
    kinds = {loss.operation for loss in loss_calls(evidence)}
    if (
        kinds & {"cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"}
        and losses[-1] > SHARE * losses[0]
        and losses[0] > 0.1
    ):
        yield Finding(
            module=None,
            message=f"after {len(losses)} steps on one batch the loss is {losses[-1]:.3g}, {losses[-1] / losses[0]:.0%} of the first (more than {SHARE:.0%})",
            fix="check that labels belong to their inputs, and raise the learning rate",
        )
