"""A class of most pixels that the loss ignores."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, describe, option
from cnnprobe.diagnosis.evidence.questions import LossCall, given_values, loss_calls, stat
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
    """ignore_index is class 0, that of most pixels or of whole samples, and the model has an output
    for it.

    Why it matters: no pixel of that class is ever judged, so the model gives each of them one of
    the other classes.
    What to do: ignore a label that is not a class, as 255 or -100.
    Known exceptions: padding in sequences; labels of a few pixels, as scribbles, where 0 is no
    label.
    Source: torch.nn.CrossEntropyLoss, ignore_index.
    """
    samples = next((info.shape[0] for info in evidence.inputs if info.shape), 0)
    for loss in loss_calls(evidence):
        target = given_values(evidence, loss)
        if loss.operation in CLASSIFYING and _is_class_of_samples(evidence, loss, samples):
            yield Finding(
                module=None,
                message=(
                    f"{describe(loss.call)} ignores class 0 (ignore_index=0), and the labels of "
                    "whole samples have it: the model never learns that class"
                ),
                fix="leave out ignore_index, or ignore a label that is not a class: -100",
                source=loss.flow.line(loss.index),
                subject=describe(loss.call),
            )
            return
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


def _is_class_of_samples(evidence: Evidence, loss: LossCall, samples: int) -> bool:
    """Whether a loss of one label for each image ignores label 0, and some have it."""
    target = loss.target
    if target is None or option(evidence.trace, loss.call, "ignore_index", -100) != 0:
        return False
    is_label = target.shape == (samples,) and target.source is None
    is_image = any(len(info.shape) > 2 for info in evidence.inputs)
    given = [info for info in evidence.targets if info.shape == target.shape]
    has_it = any(stat(info, "zeros") > 0 for info in (target, *given))
    return is_label and is_image and has_it and loss.prediction.shape[1:2] > (1,)
