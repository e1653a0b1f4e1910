"""Labels of a type that the loss does not take."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Part
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import classifier, images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

_REFUSED = ("int32", "int16", "int8")
_CLASSES = ("cross_entropy", "nll_loss")


def _with(name: str) -> Mapping[str, Any]:
    import torch
    from torch import nn

    given = labels().to(getattr(torch, name))
    return {
        "loader": loader(images(), given),
        "model": classifier(),
        "loss_fn": nn.CrossEntropyLoss(),
    }


def sick() -> Mapping[str, Any]:
    """Class numbers as float32."""
    return _with("float32")


def healthy() -> Mapping[str, Any]:
    """As int64."""
    return _with("int64")


@data_rule(code="CP816", name="label-type", severity=Severity.ERROR, examples=(sick, healthy))
def label_type(data: Data) -> Iterator[Finding]:
    """Labels of a dtype that the loss does not take.

    Why it matters: the loss raises, or takes class numbers for probabilities.
    What to do: labels.long() for a loss over classes, labels.float() for one over probabilities.
    Known exceptions: nothing is said without a loss.
    Source: torch.nn.CrossEntropyLoss, "target containing class indices";
    torch.nn.BCEWithLogitsLoss.
    """
    loss = data.expected.loss
    for split in data.splits:
        for part in split.of("class", "value", "multilabel"):
            single = all(sizes == () for sizes, _ in part.shapes)
            floating = part.dtype.startswith("float")
            if loss in _CLASSES and (part.dtype in _REFUSED or floating) and single:
                broken = "" if part.whole else " with fractions"
                yield Finding(
                    message=(
                        f"{part.path} of the {split.name} data is {part.dtype}{broken}; {loss} "
                        "takes class indices as int64"
                    ),
                    fix="labels.long(), or int(label) where the data set gives it"
                    if part.whole
                    else "leave the labels out of what scales or normalises the images",
                )
            if loss in _CLASSES and _is_one_hot(part):
                yield Finding(
                    message=(
                        f"{part.path} of the {split.name} data is one-hot in {part.dtype}; {loss} "
                        "takes class indices, or probabilities as floats"
                    ),
                    fix="labels.argmax(dim=1), or labels.float()",
                )
            if data.expected.of_probabilities and part.dtype.startswith(("int", "uint", "bool")):
                yield Finding(
                    message=(
                        f"{part.path} of the {split.name} data is {part.dtype}; {loss} takes floats"
                    ),
                    fix="labels.float()",
                )


def _is_one_hot(part: Part) -> bool:
    """Whether each row of whole numbers has a single one, on average; of two classes that is what
    any labels of a sequence have.
    """
    widths = [sizes[0] for sizes, _ in part.shapes if len(sizes) == 1]
    if part.role != "multilabel" or part.dtype.startswith(("float", "bfloat")) or not widths:
        return False
    width, mean = widths[0], part.numbers.mean if part.numbers is not None else 0.0
    return width > 2 and abs(mean * width - 1) < 1e-6
