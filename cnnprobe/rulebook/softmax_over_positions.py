"""A softmax over the positions of a map."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.softmaxes import find_softmaxes, misses_classes, name_place
from cnnprobe.rulebook.material import classifying, images, layers


def _segmenter(dim: int) -> Mapping[str, Any]:
    """A class for each pixel."""
    from torch import nn

    return classifying(
        layers(lambda: nn.Conv2d(1, 4, 3, padding=1), lambda: nn.LogSoftmax(dim=dim)),
        targets=(images() > 0)[:, 0].long(),
        loss_fn=nn.NLLLoss(),
    )


def sick() -> Mapping[str, Any]:
    """Over the columns of (N, C, H, W)."""
    return _segmenter(-1)


def healthy() -> Mapping[str, Any]:
    """Over the classes, counted from the end."""
    return _segmenter(-3)


@rule(
    code="CP412",
    name="softmax-over-positions",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="softmax-dim",
    explains=(
        "loss-not-decreasing",
        "cannot-overfit",
        "loss-at-init",
        "softmax-before-ce",
        "probs-into-nll",
    ),
)
def softmax_over_positions(evidence: Evidence) -> Iterator[Finding]:
    """A softmax of class scores runs over the rows, columns or positions, and not over the classes
    in dim 1.

    Why it matters: the positions of a map compete for each class, and the classes of one position
    do not add up to 1.
    What to do: set dim=1 for (N, C, H, W) and (N, C, L).
    Known exceptions: soft assignments and heat maps, which are meant to run over positions: only a
    head whose targets are one class for each position, or that goes into NLLLoss, is judged.
    Source: torch.nn.NLLLoss, "Input: (N, C) or (N, C, d1, ..., dK) where C = number of classes".
    """
    flow = Flow(evidence.trace)
    for softmax in find_softmaxes(evidence, flow):
        if softmax.dim > 1 and misses_classes(evidence, softmax):
            classes = 1 if softmax.classes is None else softmax.classes
            yield Finding(
                module=softmax.module,
                message=(
                    f"{describe(softmax.call)} runs over dim {softmax.dim} of {softmax.shape}, "
                    f"but the classes are in dim {classes}"
                ),
                fix=f"set dim={classes} in {name_place(evidence, softmax)}",
                source=softmax.call.source,
                subject=describe(softmax.call),
            )
