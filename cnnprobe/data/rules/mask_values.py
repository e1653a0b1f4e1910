"""Masks with values that are no class."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.expectation import Expectation
from cnnprobe.data.facts import Data, Part
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import blobs, masked
from cnnprobe.diagnosis import Finding, Severity

WHITE = 255
SMALL = 0.2  # the greatest value of class numbers below 51 that were divided by 255
GREYS = 2  # of them outside of the classes, before they are told as those of a palette
FEW = 64  # distinct values of a mask of classes


def _list_voc_greys() -> Iterator[int]:
    """Brightness of the colours of the VOC kit's classes, and of its void, as Pillow's convert("L")
    gives it: the bits of a class go to red, green and blue in turn, the highest first.
    """
    for each in (*range(21), WHITE):
        r, g, b = (
            sum((each >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3)
        )
        yield (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16


VOC_GREYS = frozenset(_list_voc_greys())


def _scaled(factor: float) -> Mapping[str, Any]:
    return {"loader": masked((blobs(classes=2) * factor).long())}


def sick() -> Mapping[str, Any]:
    """0 and 255, as the PNG files have them."""
    return _scaled(255)


def healthy() -> Mapping[str, Any]:
    """0 and 1."""
    return _scaled(1)


@data_rule(
    code="CP821",
    name="mask-values",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("label-range", "constant-targets"),
)
def mask_values(data: Data) -> Iterator[Finding]:
    """Masks whose values are no class numbers: 0 and 255, class numbers divided by 255, or more
    than the model has outputs.

    Why it matters: the loss raises, or learns the wrong classes; divided masks become all zero as
    whole numbers.
    What to do: (mask > 127).long() for black and white masks; PILToTensor, not ToTensor, for masks
    of classes.
    Known exceptions: 255 beside other classes is the void of VOC and Cityscapes; masks from 0 to 1
    of a loss over probabilities.
    Source: torchvision.transforms.ToTensor, "target image masks" excepted; the VOC 2012 development
    kit, section 3.1.2 (void is 255).
    """
    for split in data.splits:
        for part in split.of("mask"):
            said, fix = _judge(part, data.expected)
            if said:
                yield Finding(
                    message=f"the masks {part.path} of the {split.name} data {said}", fix=fix
                )


def _judge(part: Part, expected: Expectation) -> tuple[str, str]:
    values = [value for value, _ in part.values]
    if not values or part.numbers is None:
        return "", ""
    if part.whole and set(values) == {0, WHITE}:
        if expected.of_probabilities or expected.of_numbers:
            return "hold 0 and 255, not 0 and 1", "(mask > 127).float()"
        return "hold 0 and 255, and no class 1", "(mask > 127).long()"
    if not part.whole and len(values) <= FEW and 0 < max(values) < SMALL and min(values) >= 0:
        scaled = [value * WHITE for value in values]
        if all(abs(value - round(value)) < 1e-3 for value in scaled):
            return (
                f"hold class numbers divided by 255: {', '.join(f'{v:.3g}' for v in values[:4])}",
                "use v2.PILToTensor() for masks, not ToTensor",
            )
    outputs = expected.outputs if expected.of_classes else None
    wrong = [v for v in values if outputs and not 0 <= v < outputs and v != expected.ignored]
    if part.whole and outputs and len(wrong) >= GREYS and set(values) <= VOC_GREYS:
        shown = ", ".join(f"{v:g}" for v in wrong[:5])
        said = f"hold {shown}, grey values of the colours of Pascal VOC's classes, and no classes"
        return said, "np.asarray(Image.open(file)), without convert: the numbers of the colours"
    if wrong and part.whole:
        hint = ", CrossEntropyLoss(ignore_index=255)" if wrong == [WHITE] else ""
        return (
            f"hold {', '.join(f'{v:g}' for v in wrong[:5])}, and the model has {outputs} outputs",
            f"map the values to 0 ... {(outputs or 1) - 1}{hint}",
        )
    return "", ""
