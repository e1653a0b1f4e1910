"""Pixels from 0 to 255 as floats."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, loader, seed
from cnnprobe.diagnosis import Finding, Severity

LEAST = 32.0  # the greatest value of whole numbers from which they are pixels, and no counts
MOST = 255.0


def _pixels(scale: float) -> Mapping[str, Any]:
    import torch

    given = torch.randint(0, 256, (32, 3, 8, 8), generator=seed()).float()
    return {"loader": loader(given * scale, labels())}


def sick() -> Mapping[str, Any]:
    """As the file has them."""
    return _pixels(1.0)


def healthy() -> Mapping[str, Any]:
    """Divided by 255."""
    return _pixels(1 / 255)


@data_rule(
    code="CP807",
    name="unscaled-images",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("input-range",),
)
def unscaled_images(data: Data) -> Iterator[Finding]:
    """Images are floats from 0 to 255.

    Why it matters: initialisations and learning rates are made for inputs of about unit size;
    pixels are a hundred times that.
    What to do: v2.ToDtype(torch.float32, scale=True), which divides by 255, then v2.Normalize; in a
    Dataset of your own, image / 255.
    Known exceptions: models that scale by themselves; uint8, which is scaled later; more than 255,
    as of 16 bit scans.
    Source: LeCun et al. 1998, "Efficient BackProp", section 4.3; torchvision.transforms.v2.ToDtype.
    """
    for split in data.splits:
        for part in split.of("image"):
            numbers = part.numbers
            if numbers is None or not part.dtype.startswith(("float", "bfloat")) or not part.whole:
                continue
            if numbers.low >= 0 and LEAST < numbers.high <= MOST:
                yield Finding(
                    message=(
                        f"{part.path or 'the images'} of the {split.name} data are {part.dtype} "
                        f"with whole numbers from {numbers.low:g} to {numbers.high:g}, mean "
                        f"{numbers.mean:.3g}"
                    ),
                    fix="divide by 255: v2.ToDtype(torch.float32, scale=True), then v2.Normalize",
                )
