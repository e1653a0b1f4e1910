"""Labels that are all the same."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, operation
from cnnprobe.diagnosis.evidence.questions import (
    LossCall,
    given_values,
    loss_calls,
    stat,
    trainable,
)
from cnnprobe.rulebook.material import classifying, images, layers

FEWEST = 4  # samples: fewer may well be of one class
CLASSES = 3  # of two classes one may be rare


def _masks(scale: float) -> Mapping[str, Any]:
    from torch import nn

    masks = ((images() * 1.5).round().clamp(0, 2)[:, 0] * scale).long()
    return classifying(
        layers(lambda: nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), lambda: nn.Conv2d(4, 3, 1)),
        targets=masks,
    )


def sick() -> Mapping[str, Any]:
    """Masks that were divided by 255 and then made whole numbers."""
    return _masks(1 / 255)


def healthy() -> Mapping[str, Any]:
    """As they were drawn."""
    return _masks(1.0)


@rule(code="CP706", name="constant-targets", severity=Severity.WARNING, examples=(sick, healthy))
def constant_targets(evidence: Evidence) -> Iterator[Finding]:
    """All class labels of the batch are the same, of three classes or more.

    Why it matters: the model learns to give that answer to everything; batches of one class each
    make it forget the others.
    What to do: look at the labels as the loader gives them: masks must not go through ToTensor,
    which divides by 255, and a sorted data set needs shuffle=True.
    Known exceptions: two classes, of which one may be rare; fewer than 4 samples; scores that
    compare samples with each other, of which one place is always the right one (contrastive
    losses).
    Source: torchvision.transforms.ToTensor, "in the range [0.0, 1.0]", "target image masks"
    excepted.
    """
    for loss in loss_calls(evidence):
        shape = loss.prediction.shape
        if (
            loss.operation not in ("cross_entropy", "nll_loss")
            or loss.target is None
            or not loss.target.dtype.startswith("int")
        ):
            continue
        if _compares_samples(evidence, loss):
            continue
        target = given_values(evidence, loss)
        low, high = stat(target, "min"), stat(target, "max")
        if (
            len(shape) > 1
            and shape[1] >= CLASSES
            and evidence.targets
            and evidence.targets[0].shape[:1] >= (FEWEST,)
            and stat(target, "count") >= FEWEST
            and low == high
        ):
            yield Finding(
                module=None,
                message=(
                    f"all {int(stat(target, 'count'))} labels of the batch are {low:.0f}, of "
                    f"{shape[1]} classes"
                ),
                fix=(
                    "look at the labels that the loader gives: shuffle=True for a sorted data "
                    "set; no ToTensor (which divides by 255) for masks"
                ),
                source=loss.call.source,
            )
            return


def _compares_samples(evidence: Evidence, loss: LossCall) -> bool:
    """Whether the last product before the loss is one of two values, not of values and a weight."""
    behind = loss.flow.before(loss.index)
    products = [
        i for i in behind if operation(loss.flow.calls[i]) in PROJECTIONS | {"matmul", "einsum"}
    ]
    last = loss.flow.calls[max(products)] if products else None
    if last is None or operation(last) in PROJECTIONS:
        return False
    return not any(loss.flow.outer(t).source in trainable(evidence) for t in last.inputs)
