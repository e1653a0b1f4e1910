"""Class weights that make frequent classes count more."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import loss_calls
from cnnprobe.rulebook.material import classifying, perceptron

RATIO = 2.0  # of the largest weight to the least, and of the shares

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
    """The weights of the classes grow with their number of samples.

    Why it matters: the rare classes, which weights are meant to help, count even less.
    What to do: weight each class by the inverse of its number of samples.
    Known exceptions: shares or weights that differ by less than two times.
    Source: King & Zeng 2001, "Logistic Regression in Rare Events Data", section 4.2; sklearn's
    compute_class_weight("balanced").
    """
    known = [(share, weight) for share, weight in evidence.class_weights if share > 0]
    if len(known) < 2:
        return
    ordered = sorted(known)
    weights = [weight for _, weight in ordered]
    rarest, most = ordered[0], ordered[-1]
    is_growing = weights == sorted(weights) and weights[-1] >= RATIO * weights[0]
    if is_growing and most[0] >= RATIO * rarest[0] and weights[0] > 0:
        yield Finding(
            module=None,
            message=(
                f"the class with {most[0]:.0%} of the samples has a weight of {most[1]:.3g}, the "
                f"one with {rarest[0]:.0%} one of {rarest[1]:.3g}: the rare classes count even "
                "less"
            ),
            kind="binary" if _is_binary(evidence) else "",
            fix=BINARY if _is_binary(evidence) else OF_CLASSES,
        )


def _is_binary(evidence: Evidence) -> bool:
    """Whether the weight is that of the positive labels of a loss of two classes."""
    kinds = {loss.operation for loss in loss_calls(evidence)}
    return kinds == {"binary_cross_entropy_with_logits"}
