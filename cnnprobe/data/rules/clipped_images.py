"""Images whose bright parts were cut off."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import made
from cnnprobe.diagnosis import Finding, Severity

MORE = 0.25  # of the values, than in the pictures that the images are made of
FEWEST = 4  # images


def _exposed(times: float) -> Mapping[str, Any]:
    import numpy as np
    import torch
    from PIL import Image

    random = np.random.default_rng(0)
    small = [Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8)) for _ in range(16)]
    large = [each.resize((32, 32), Image.Resampling.BICUBIC) for each in small]
    data: Any = np.stack([np.asarray(each) for each in large])

    def make(index: int) -> Any:
        pixels = torch.from_numpy(data[index]).permute(2, 0, 1).float() / 255
        return (times * pixels).clamp(0, 1), index // 4

    return {"loader": made(16, make, data=data)}


def sick() -> Mapping[str, Any]:
    """Three times as bright, and cut off at 1."""
    return _exposed(3.0)


def healthy() -> Mapping[str, Any]:
    """A little brighter."""
    return _exposed(1.2)


@data_rule(code="CP860", name="clipped-images", severity=Severity.WARNING, examples=(sick, healthy))
def clipped_images(data: Data) -> Iterator[Finding]:
    """Many pixels have the maximum value, but not in the files: the images were clipped.

    Why it matters: detail that is cut off becomes plain white, and is lost.
    What to do: look for a brightness, a gain or a second scaling before the clamp.
    Known exceptions: pictures that are white by themselves, as scanned pages; images of two values.
    Told where the pictures are in files, or as bytes in the data set, as CIFAR's are; fills of
    white around turned pictures are found too.
    Source: torchvision.transforms.v2.functional.adjust_brightness clamps to the greatest value.
    """
    for split in data.splits:
        beside = split.clues.beside
        if beside.clipped >= FEWEST and beside.share > beside.before + MORE:
            yield Finding(
                message=(
                    f"{beside.share:.0%} of the values of an image of the {split.name} data are "
                    f"the greatest one, and {beside.before:.0%} of those of its picture are at an "
                    "end "
                    f"(median of {beside.clipped})"
                ),
                fix="look for what makes them brighter, and for a clamp after it",
            )
