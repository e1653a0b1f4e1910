"""Images of one class in another range than those of the others."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from cnnprobe.data.facts import Data, Labels
from cnnprobe.data.image_facts import Range
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, loader, seed
from cnnprobe.diagnosis import Finding, Severity

RATIO = 8.0  # of the greatest values; a dark class and a bright one of photos reach 1 to 4
FEWEST = 4  # images of a class
BLACK = 0.05  # from zero to here the least value is black, in images from 0 to 1
SIGNED = -0.5  # the least values of normalised images lie below


def _scaled(factor: float) -> Mapping[str, Any]:
    import torch

    given = torch.rand(64, 3, 8, 8, generator=seed(7))
    given[labels(64) == 2] *= factor
    return {"loader": loader(given, labels(64))}


def sick() -> Mapping[str, Any]:
    """One class was not divided by 255."""
    return _scaled(255)


def healthy() -> Mapping[str, Any]:
    """One class was taken at night."""
    return _scaled(0.2)


@data_rule(
    code="CP838", name="class-range", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("input-range", "mixed-ranges"),
)  # fmt: skip
def class_range(data: Data) -> Iterator[Finding]:
    """The images of one class lie in another range than those of the other classes.

    Why it matters: the model learns the range instead of the class, and fails once all are alike.
    What to do: read the files of all classes in one way: one folder of PNG beside JPEG, of 16 bits,
    or already scaled.
    Known exceptions: greatest values up to a factor of 8 apart; a class that is black.
    Source: Geirhos et al. 2020, "Shortcut learning in deep neural networks", arXiv:2004.07780.
    """
    for split in data.splits:
        labels = split.labels
        ranges = [r for r in labels.ranges if r.images >= FEWEST] if labels is not None else []
        if labels is None or len(ranges) < 2:
            continue
        for each in ranges:
            others = [r for r in ranges if r is not each]
            if said := _compare(each, others):
                yield Finding(
                    message=f"{split.name}: the images of class {_name(labels, each)} {said}",
                    fix="read the images of all classes in one way",
                )
                break


def _name(labels: Labels, each: Range) -> str:
    named = 0 <= each.label < len(labels.names)
    return repr(labels.names[each.label]) if named else str(each.label)


def _compare(each: Range, others: Sequence[Range]) -> str:
    """How a class differs from all others, which agree with one another; "" where it does not."""
    peaks = [max(abs(r.low), abs(r.high)) for r in others]
    peak = max(abs(each.low), abs(each.high))
    if min(peaks) <= 0 or peak <= 0 or max(peaks) > RATIO * min(peaks):
        return ""
    low, high = median(r.low for r in others), median(r.high for r in others)
    said = (
        f"go from {each.low:.3g} to {each.high:.3g}, those of the others from {low:.3g} to "
        f"{high:.3g} (medians)"
    )
    if peak > RATIO * max(peaks) or RATIO * peak < min(peaks):
        return f"{said}: a factor of more than {RATIO:g}"
    raw = 0 <= each.low <= BLACK and 0.5 < each.high <= 1
    if raw and all(r.low < SIGNED for r in others) and len(others) > 1:
        return f"{said}: they are not normalised"
    normal = each.low < SIGNED and all(0 <= r.low <= BLACK and r.high <= 1 for r in others)
    return f"{said}: they alone are normalised" if normal and len(others) > 1 else ""
