"""NaN and Inf in images and targets."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.data.words import name_samples
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted


def _with(value: float) -> Mapping[str, Any]:
    given = images()
    given[3, 1, 2, 2] = value
    return {"loader": loader(given, labels())}


def sick() -> Mapping[str, Any]:
    """One pixel is NaN."""
    return _with(float("nan"))


def healthy() -> Mapping[str, Any]:
    """It is large, and finite."""
    return _with(5.0)


@data_rule(
    code="CP803",
    name="nonfinite-values",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("nan-forward", "nan-backward", "divergence", "loss-not-decreasing"),
)
def nonfinite_values(data: Data) -> Iterator[Finding]:
    """Images or targets hold NaN or Inf.

    Why it matters: a single NaN makes the loss NaN, and one step later every weight.
    What to do: look where they come from: a division by the std of a constant image, the logarithm
    of zero, a missing value in a table.
    Known exceptions: targets whose NaN marks what is missing, with a loss that leaves it out.
    Source: IEEE 754: every operation on NaN gives NaN.
    """
    for split in data.splits:
        for part in split.of("image", "value", "boxes", "mask"):
            numbers = part.numbers
            if numbers is None or not numbers.nan + numbers.inf:
                continue
            spotted = split.images.nonfinite if part.role == "image" else ()
            where = f": {name_samples(spotted, split.images.nonfinites)}" if spotted else ""
            yield Finding(
                severity=None if part.role == "image" else Severity.WARNING,
                message=(
                    f"{part.path or 'the images'} of the {split.name} data hold "
                    f"{format_counted(numbers.nan, 'NaN', 'NaN')} and "
                    f"{format_counted(numbers.inf, 'Inf', 'Inf')} among {numbers.count:,} "
                    f"values{where}"
                ),
                fix="remove these samples, or mend what makes the values",
            )
