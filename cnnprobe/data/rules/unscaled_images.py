"""Pixels from 0 to 255 as floats."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Numbers, Part, Split
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
    as of 16 bit scans. Two frames beside their optical flow are
    info: the networks of flow, as RAFT, take 0 to 255 and scale in their forward.
    Source: LeCun et al. 1998, "Efficient BackProp", section 4.3; torchvision.transforms.v2.ToDtype;
    Teed and Deng 2020, "RAFT", arXiv:2003.12039, and its code, core/raft.py.
    """
    for split in data.splits:
        found = list(_list_unscaled(split))
        if not found:
            continue
        paths = " and ".join(part.path or "the images" for part, _ in found)
        numbers = [each for _, each in found]
        yield Finding(
            severity=Severity.INFO if len(found) == 2 and _has_flow(split) else None,
            message=(
                f"{paths} of the {split.name} data are {found[0][0].dtype} with whole numbers "
                f"from {min(n.low for n in numbers):g} to {max(n.high for n in numbers):g}, mean "
                f"{numbers[0].mean:.3g}"
            ),
            fix="divide by 255: v2.ToDtype(torch.float32, scale=True), then v2.Normalize",
        )


def _list_unscaled(split: Split) -> Iterator[tuple[Part, Numbers]]:
    for part in split.of("image"):
        numbers = part.numbers
        if numbers is None or not part.dtype.startswith(("float", "bfloat")) or not part.whole:
            continue
        if numbers.low >= 0 and LEAST < numbers.high <= MOST:
            yield part, numbers


def _has_flow(split: Split) -> bool:
    """Whether a part holds two numbers of both signs for each pixel: the way from one frame to the
    other.
    """
    return any(
        part.numbers is not None
        and part.numbers.low < 0 < part.numbers.high
        and all(len(shape) == 3 and shape[0] == 2 for shape, _ in part.shapes)
        for part in split.of("image")
    )
