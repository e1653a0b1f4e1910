"""A class of most pixels that the loss ignores."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, describe, option
from cnnprobe.diagnosis.evidence.questions import given_values, loss_calls, stat
from cnnprobe.rulebook.material import classifying, images, layers

MOST = 0.5  # of the pixels
SPARSE = 0.97  # of the pixels; scribbles and points label less than a few in a hundred
CLASSIFYING = frozenset({"cross_entropy", "nll_loss"})


def _segmenting(ignored: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    kinds = torch.zeros(8, 8, 8, dtype=torch.long)
    kinds[:, 2:5, 2:5] = torch.arange(1, 3).repeat(4)[:, None, None]
    net = layers(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    return classifying(
        net, inputs=images(), targets=kinds, loss_fn=nn.CrossEntropyLoss(ignore_index=ignored)
    )


def sick() -> Mapping[str, Any]:
    """The background is class 0, and so is ignore_index."""
    return _segmenting(0)


def healthy() -> Mapping[str, Any]:
    """A label that is no class is ignored."""
    return _segmenting(255)


@rule(code="CP456", name="ignored-class", severity=Severity.WARNING, examples=(sick, healthy))
def ignored_class(evidence: Evidence) -> Iterator[Finding]:
    """ignore_index is class 0, that of most pixels, and the model has an output for it.

    Why it matters: no pixel of that class is ever judged, so the model gives each of them one of
    the other classes.
    What to do: ignore a label that is not a class, as 255 or -100.
    Known exceptions: padding in sequences; labels of a few pixels, as scribbles, where 0 is no
    label.
    Source: torch.nn.CrossEntropyLoss, ignore_index.
    """
    for loss in loss_calls(evidence):
        target = given_values(evidence, loss)
        if loss.operation not in CLASSIFYING or target is None or len(target.shape) < 3:
            continue
        ignored = option(evidence.trace, loss.call, "ignore_index", -100)
        share = stat(target, "zeros") / stat(target, "count")
        if ignored == 0 and MOST < share < SPARSE and loss.prediction.shape[1] > 1:
            yield Finding(
                module=None,
                message=(
                    f"{describe(loss.call)} ignores class 0 (ignore_index=0), which is {share:.0%} "
                    f"of the labels: output 0 of {loss.prediction.shape[1]} is never right"
                ),
                fix="ignore a label that is not a class: ignore_index=255 or -100",
                source=loss.flow.line(loss.index),
                subject=describe(loss.call),
            )
            return
