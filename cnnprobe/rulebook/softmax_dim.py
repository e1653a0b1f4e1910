"""A softmax over the batch."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.softmaxes import (
    Softmax,
    find_softmaxes,
    is_over_batch,
    misses_classes,
    name_place,
)
from cnnprobe.rulebook.material import classifying, perceptron


def sick() -> Mapping[str, Any]:
    """Over the batch."""
    from torch import nn

    return classifying(perceptron(end=(nn.LogSoftmax(dim=0),)), loss_fn=nn.NLLLoss())


def healthy() -> Mapping[str, Any]:
    """Over the classes, counted from the end."""
    from torch import nn

    return classifying(perceptron(end=(nn.LogSoftmax(dim=-1),)), loss_fn=nn.NLLLoss())


@rule(
    code="CP405",
    name="softmax-dim",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "batch-leak",
        "loss-not-decreasing",
        "cannot-overfit",
        "loss-at-init",
        "softmax-before-ce",
        "probs-into-nll",
        "constant-output",
        "zero-grad",
    ),
)
def softmax_dim(evidence: Evidence) -> Iterator[Finding]:
    """A softmax runs over dim 0, the batch, and not over the classes; or over a dim of size 1.

    Why it matters: the samples of a batch compete with each other; a sample's prediction depends on
    which others it came with. Over a dim of size 1 every value is 1, whatever goes in.
    What to do: set dim=1, or dim=-1 for (N, C).
    Known exceptions: attention over a sequence in dim 0 is right where the batch is elsewhere; it
    is reported only where samples were seen to influence each other, or where each layer before it
    keeps the batch in dim 0. Losses over a square matrix of
    similarities are not reported, nor is a single position, whose other dims have size 1 too.
    Source: torch.nn.Softmax, "dim: a dimension along which Softmax will be computed (so every slice
    along dim will sum to 1)".
    """
    flow = Flow(evidence.trace)
    for softmax in find_softmaxes(evidence, flow):
        if softmax.dim == 0 and (
            is_over_batch(evidence, softmax) or misses_classes(evidence, softmax)
        ):
            yield Finding(
                module=softmax.module,
                message=(
                    f"{describe(softmax.call)} runs over dim 0 of {softmax.shape}, which is the "
                    "batch"
                ),
                fix=f"set dim=1 in {name_place(evidence, softmax)}",
                source=softmax.call.source,
                subject=describe(softmax.call),
            )
        elif _is_of_one_value(softmax):
            yield Finding(
                module=softmax.module,
                message=(
                    f"{describe(softmax.call)} runs over dim {softmax.dim} of {softmax.shape}, "
                    "which has 1 value: the result is always 1"
                ),
                fix=f"set dim to the dim of what is weighed in {name_place(evidence, softmax)}",
                source=softmax.call.source,
                subject=describe(softmax.call),
            )


def _is_of_one_value(softmax: Softmax) -> bool:
    """Whether it weighs a single value although there are several beside it; a prediction is
    `loss-activation-mismatch`.
    """
    shape = softmax.shape
    return (
        not softmax.is_prediction
        and softmax.dim > 0
        and shape[softmax.dim] == 1
        and math.prod(shape[1:]) > 1
    )
