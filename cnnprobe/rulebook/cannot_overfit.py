"""A model that cannot learn one batch by heart."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, option
from cnnprobe.diagnosis.evidence.questions import (
    LossCall,
    falls_steadily,
    given_values,
    loss_calls,
    stat,
    warms_up,
)
from cnnprobe.rulebook.material import classifying, images, perceptron

LEAST = 50  # steps before it is judged
SHARE = 0.5  # of the first loss
ROSE = 1.1  # times the first loss: it is driven up, and a higher rate is no answer
CLASSIFYING = frozenset(
    {"cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"}
)


def _training(separable: bool) -> Mapping[str, Any]:
    import torch

    torch.manual_seed(0)
    inputs = images() if separable else images(1).expand(8, 1, 8, 8).clone()
    model = perceptron()
    return classifying(
        model, inputs=inputs, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2), steps=LEAST
    )


def sick() -> Mapping[str, Any]:
    """The same image under four labels."""
    return _training(separable=False)


def healthy() -> Mapping[str, Any]:
    """Eight images."""
    return _training(separable=True)


@rule(code="CP511", name="cannot-overfit", severity=Severity.WARNING, examples=(sick, healthy))
def cannot_overfit(evidence: Evidence) -> Iterator[Finding]:
    """After at least 50 steps on a single batch the loss is still more than half of what it was,
    and hardly falls any more.

    Why it matters: a network with more parameters than samples can learn a batch by heart; one that
    cannot has a fault in it or in its data.
    What to do: see the findings that explain it; else raise the learning rate, check that labels
    belong to their inputs, and that inputs differ.
    Known exceptions: fewer than 50 steps; losses other than classification, or with a further term,
    or with soft targets, whose least value is not known (that of label smoothing is); a loss that
    still falls as fast as at the beginning, as in fine-tuning: it is slow, not unable; one that
    rises, of which `divergence` and `loss-not-decreasing` speak.
    Source: Karpathy 2019, "A Recipe for Training Neural Networks", "overfit one batch".
    """
    losses = [step.value for step in evidence.steps]
    if (
        len(losses) < LEAST
        or losses[0] is None
        or losses[-1] is None
        or any(len(step.losses) != 1 for step in evidence.steps)
    ):
        return
    least = _least(evidence)
    if least is None or warms_up(evidence) or losses[0] <= 0.1 or falls_steadily(losses):
        return
    if losses[-1] > ROSE * losses[0]:
        return
    if losses[-1] - least > SHARE * (losses[0] - least) > 0:
        yield Finding(
            module=None,
            message=(
                f"after {len(losses)} steps on one batch the loss is {losses[-1]:.3g}, "
                f"{losses[-1] / losses[0]:.0%} of the first (more than {SHARE:.0%})"
            ),
            fix="check that labels belong to their inputs, and raise the learning rate",
        )


def _least(evidence: Evidence) -> float | None:
    """The loss of a batch that is known by heart; None where it is not the mean of classification
    losses of hard labels alone.
    """
    found = [loss for loss in loss_calls(evidence) if loss.operation in CLASSIFYING]
    made = evidence.steps[0].losses[0].call
    if not found or any(_is_soft(evidence, loss) for loss in found):
        return None
    flow = found[0].flow
    terms = {loss.index for loss in found}
    inside = terms.union(*(flow.before(i) for i in terms))
    beside = (flow.before(made) | {made}) - inside if made is not None else set()
    if any(
        isinstance(t.source, str) or t.source in inside - terms
        for i in beside
        if flow.is_primitive[i]
        for t in flow.calls[i].inputs
    ):
        return None
    smoothing = [option(evidence.trace, loss.call, "label_smoothing", 0.0) for loss in found]
    amounts = [float(s) if isinstance(s, int | float) else 0.0 for s in smoothing]
    if not any(amounts):
        return 0.0
    return (
        _smoothed(amounts[0], found[0].prediction.shape[1])
        if len(found) == 1 and len(found[0].prediction.shape) > 1
        else None
    )


def _smoothed(amount: float, classes: int) -> float:
    """The entropy of a label that gives a part of itself to all classes, which no prediction goes
    below (Szegedy et al. 2016, arXiv:1512.00567).
    """
    other = amount / classes
    own = 1 - amount + other
    return -own * math.log(own) - (classes - 1) * other * math.log(other) if 0 < amount < 1 else 0.0


def _is_soft(evidence: Evidence, loss: LossCall) -> bool:
    """Whether targets are probabilities between 0 and 1, of which none is sure."""
    if loss.target is None or not loss.target.dtype.startswith(("float", "bfloat")):
        return False
    values = given_values(evidence, loss)
    mean, std = stat(values, "mean"), stat(values, "std")
    return not mean - (std**2 + mean**2) < 1e-3  # 0 where each is 0 or 1
