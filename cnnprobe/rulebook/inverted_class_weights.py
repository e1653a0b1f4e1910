"""Class weights that make frequent classes count more."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.questions import loss_calls
from cnnprobe.rulebook.material import classifying, perceptron

RATIO = 2.0  # of the largest weight to the least, and of the shares
OF_FOCAL = 5.0  # the same where a published focal loss has 3
FAR = 4.0  # of the shares of two classes, whatever lies between them

BINARY = "pos_weight = negatives / positives"
OF_CLASSES = "weight = counts.sum() / (len(counts) * counts)"


def _training(power: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    weights = torch.bincount(labels).float() ** power
    return classifying(perceptron(), targets=labels, loss_fn=nn.CrossEntropyLoss(weight=weights))


def sick() -> Mapping[str, Any]:
    """The weights are the numbers of samples."""
    return _training(1.0)


def healthy() -> Mapping[str, Any]:
    """They are their inverse."""
    return _training(-1.0)


@rule(
    code="CP427", name="inverted-class-weights", severity=Severity.WARNING, examples=(sick, healthy)
)
def inverted_class_weights(evidence: Evidence) -> Iterator[Finding]:
    """The weights of the classes grow with their number of samples, or belong to other classes.

    Why it matters: the rare classes, which weights are meant to help, count even less.
    What to do: weight each class by the inverse of its number of samples, in the order of the
    labels; in a focal loss, alpha for the label 1 and 1 - alpha for 0.
    Known exceptions: shares or weights that differ by less than two times; weights that are only
    seen by the gradient of the user's own loss of two classes and differ by less than five times,
    as those of the published focal loss with alpha = 0.25 do, or beside another loss; a weight of
    0.
    Source: King & Zeng 2001, "Logistic Regression in Rare Events Data", section 4.2; sklearn's
    compute_class_weight("balanced"); Lin et al. 2017, arXiv:1708.02002, section 3.2.
    """
    free = evidence.code.free
    is_measured = not evidence.class_weights and free is not None
    if is_measured and len(list(loss_calls(evidence))) > 1:
        return  # another term pulls too, as that of a teacher's labels
    pulls = free.pulls if is_measured and free is not None else evidence.class_weights
    known = sorted((share, weight) for share, weight in pulls if share > 0)
    if len(known) < 2 or min(weight for _, weight in known) <= 0:
        return
    if not _is_inverted(known, OF_FOCAL if is_measured and len(known) == 2 else RATIO):
        return
    rarest, most = known[0], known[-1]
    is_binary = len(known) == 2 if is_measured else _is_binary(evidence)
    yield Finding(
        module=None,
        message=(
            f"the class with {most[0]:.0%} of the samples has a weight of {most[1]:.3g}, the "
            f"one with {rarest[0]:.0%} one of {rarest[1]:.3g}"
            f"{' by the gradient of the loss' if is_measured else ''}: the rare classes count even "
            "less"
        ),
        kind="measured" if is_measured else _say_kind(known, is_binary=is_binary),
        fix=_say_fix(is_measured=is_measured, is_binary=is_binary),
        source=_find_line(evidence) if is_measured else "",
    )


def _is_inverted(known: list[tuple[float, float]], ratio: float) -> bool:
    """Whether the weights grow with the share, or that of the commonest class is the larger one of
    two that are far apart.
    """
    weights = [weight for _, weight in known]
    rarest, most = known[0], known[-1]
    is_larger = most[1] >= ratio * rarest[1]
    is_growing = weights == sorted(weights) and most[0] >= RATIO * rarest[0]
    return is_larger and (is_growing or most[0] >= FAR * rarest[0])


def _say_kind(known: list[tuple[float, float]], *, is_binary: bool) -> str:
    if is_binary:
        return "binary"
    weights = [weight for _, weight in known]
    return "" if weights == sorted(weights) else "order"


def _say_fix(*, is_measured: bool, is_binary: bool) -> str:
    if is_measured and is_binary:
        return "give the rarer label the larger weight: see which label alpha is multiplied with"
    return BINARY if is_binary else f"{OF_CLASSES}, in the order of the labels"


def _find_line(evidence: Evidence) -> str:
    """The line that makes the loss."""
    step = evidence.steps[0] if evidence.steps else None
    rows = [loss.call for loss in step.losses if loss.call is not None] if step else []
    return Flow(step.trace).line(rows[0]) if step is not None and rows else ""


def _is_binary(evidence: Evidence) -> bool:
    """Whether the weight is that of the positive labels of a loss of two classes."""
    kinds = {loss.operation for loss in loss_calls(evidence)}
    return kinds == {"binary_cross_entropy_with_logits"}
