"""Masks of another size than their images."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.object_facts import Masks
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import blobs, masked
from cnnprobe.data.words import name_samples
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted


def _cropped(size: int) -> Mapping[str, Any]:
    return {"loader": masked(blobs()[:, :size, :size])}


def sick() -> Mapping[str, Any]:
    """Images of 16 pixels, masks of 14."""
    return _cropped(14)


def healthy() -> Mapping[str, Any]:
    """Masks of half their size, as some models give them."""
    return _cropped(8)


@data_rule(code="CP823", name="mask-sizes", severity=Severity.WARNING, examples=(sick, healthy))
def mask_sizes(data: Data) -> Iterator[Finding]:
    """Masks have another height and width than their images.

    Why it matters: the loss raises, or, where the mask is resized later, each pixel gets the class
    of another.
    What to do: transform image and mask together: transforms.v2 takes both, transform(image,
    tv_tensors.Mask(mask)).
    Known exceptions: masks smaller by one whole factor, as models with a coarser output have them.
    Source: torchvision.transforms.v2, "transforms for bounding boxes, masks".
    """
    for split in data.splits:
        for masks in split.objects:
            if not isinstance(masks, Masks) or not masks.unequal:
                continue
            if masks.ratio is not None and masks.ratio == round(masks.ratio):
                continue
            yield Finding(
                message=(
                    f"{format_counted(masks.unequal, 'mask')} {masks.path} of the {split.name} "
                    f"data {'has' if masks.unequal == 1 else 'have'} another size than the image: "
                    f"{name_samples(masks.spotted, masks.unequal)}"
                ),
                fix=(
                    "resize and crop image and mask in one call of a transform of "
                    "torchvision.transforms.v2"
                ),
            )
