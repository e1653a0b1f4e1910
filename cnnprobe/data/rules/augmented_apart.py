"""Images that are flipped without their masks, boxes or key points."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import blobs, images, made
from cnnprobe.diagnosis import Finding, Severity

_WRAPPED = {
    "mask": "tv_tensors.Mask(mask)",
    "boxes": "tv_tensors.BoundingBoxes(boxes, ...)",
    "key points": "tv_tensors.KeyPoints(points, ...)",
}


def _flipping(both: bool) -> Mapping[str, Any]:
    import torch

    masks = blobs()

    def make(i: int) -> Any:
        image, mask = images(1, 3, 16, of=i)[0], masks[i]
        if torch.rand(()) < 0.5:
            return image.flip(-1), mask.flip(-1) if both else mask
        return image, mask

    return {"loader": made(8, make)}


def sick() -> Mapping[str, Any]:
    """RandomHorizontalFlip on the image alone."""
    return _flipping(both=False)


def healthy() -> Mapping[str, Any]:
    """On both."""
    return _flipping(both=True)


@data_rule(
    code="CP824",
    name="augmented-apart",
    severity=Severity.ERROR,
    examples=(sick, healthy),
)
def augmented_apart(data: Data) -> Iterator[Finding]:
    """An image is flipped at random, and its mask, boxes or key points are not.

    Why it matters: in half of the samples the targets lie on the opposite side.
    What to do: one transform of torchvision.transforms.v2 for both: transform(image,
    tv_tensors.Mask(mask)), or tv_tensors.BoundingBoxes(...) and KeyPoints.
    Known exceptions: flips and half turns are tried for; crops and rotations are not.
    Source: torchvision.transforms.v2, "transforms for bounding boxes, masks".
    """
    for split in data.splits:
        unmoved = split.trials.unmoved
        if split.trials.apart:
            yield Finding(
                message=(
                    f"the {split.name} data flips an image {split.trials.apart} and leaves its "
                    f"{unmoved} as {'it was' if unmoved == 'mask' else 'they were'}"
                ),
                fix=f"flip both in one call: v2.RandomHorizontalFlip()(image, {_WRAPPED[unmoved]})",
            )
