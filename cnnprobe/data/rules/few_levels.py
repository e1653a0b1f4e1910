"""Images of which rounding left a few levels."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

MOST = 12.0  # from the least to the greatest: normalised images go from about -2 to 3
LEAST = 2.0  # from 0 to 1 may be drawings in black and white
COLOURS = 3


def _rounded(scale: float) -> Mapping[str, Any]:
    return {"loader": loader((images() * scale).round(), labels())}


def sick() -> Mapping[str, Any]:
    """Normalised images that were cast to whole numbers."""
    return _rounded(1.0)


def healthy() -> Mapping[str, Any]:
    """Whole numbers, of more levels."""
    return _rounded(4.0)


@data_rule(code="CP846", name="few-levels", severity=Severity.WARNING, examples=(sick, healthy),
           explains=("constant-images", "duplicate-images"))  # fmt: skip
def few_levels(data: Data) -> Iterator[Finding]:
    """Colour images hold a few whole numbers: they were rounded after they were normalised.

    Why it matters: a few of 256 levels are left, and most of the picture is gone.
    What to do: cast to uint8 before the normalisation, or not at all; .float() and not .byte() or
    .long().
    Known exceptions: images of 0 and 1 alone, and those of one channel, as maps of classes are.
    Source: torch.Tensor.to, a cast of floats to whole numbers drops the fraction.
    """
    for split in data.splits:
        for part in split.of("image"):
            numbers = part.numbers
            colours = {sizes[0] for sizes, _ in part.shapes if len(sizes) == COLOURS} == {COLOURS}
            whole = part.whole or part.dtype.startswith(("int", "uint"))
            if numbers is None or not colours or not whole:
                continue
            if LEAST <= numbers.high - numbers.low <= MOST:
                yield Finding(
                    message=(
                        f"{part.path or 'the images'} of the {split.name} data hold whole numbers "
                        f"from {numbers.low:g} to {numbers.high:g} ({part.dtype})"
                    ),
                    fix="normalise floats, and cast nothing to whole numbers afterwards",
                )
