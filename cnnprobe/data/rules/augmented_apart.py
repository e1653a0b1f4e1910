"""Images that are flipped without their masks, boxes or key points."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.clues import Strangers
from cnnprobe.data.facts import Data
from cnnprobe.data.object_facts import Masks, Points
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import blobs, images, made
from cnnprobe.diagnosis import Finding, Severity

TOGETHER, BELONG = 1.5, 4.0  # standard errors: masks that move with their images have 5 and more
FEWEST = 32  # samples with key points, in both
MIXED, STEADY = 0.2, 0.05  # of the samples: left and right of one another, and above one another
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
    """An image is flipped or moved at random, and its mask, boxes or key points are not, or in
    another way.

    Why it matters: in half of the samples the targets lie on the opposite side.
    What to do: one transform of torchvision.transforms.v2 for both: transform(image,
    tv_tensors.Mask(mask)), or tv_tensors.BoundingBoxes(...) and KeyPoints.
    Left and right key points change their places in the list where the image is flipped.
    Known exceptions: of boxes and key points, flips and half turns are tried for. Masks that move
    otherwise than their images are found where they explain the colours: those of another reading
    of the sample must do so no worse than the mask that was read with the image.
    Source: torchvision.transforms.v2, "transforms for bounding boxes, masks".
    """
    if (pair := _find_unexchanged(data)) is not None:
        first, second, left = pair
        yield Finding(
            severity=Severity.WARNING,
            message=(
                f"key point {first} is left of key point {second} in {left:.0%} of the training "
                "samples, and always on one side in the validation, at the same heights: flipped "
                "images whose left and right points keep their places in the list"
            ),
            fix="exchange the left and the right points of a flipped sample: points[order]",
        )
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
        elif (found := split.trials.strangers) is not None and _are_apart(found, data):
            yield Finding(
                severity=Severity.WARNING,
                message=(
                    f"the masks of the {split.name} data fit their images no better than those of "
                    f"another reading of the sample: they explain {found.own:.1%} and "
                    f"{found.other:.1%} of the variance of the pixels, in {found.samples} samples "
                    "whose image and mask both move"
                ),
                fix="draw the random numbers once for both: one call of a v2 transform with "
                "(image, tv_tensors.Mask(mask))",
            )


def _find_unexchanged(data: Data) -> tuple[int, int, float] | None:
    """Two key points that stand left and right in all of the validation, and in the training in
    either order, though at the same heights: mirrored images, whose list was not reordered.
    """
    splits = [[each for each in s.objects if isinstance(each, Points)] for s in data.splits]
    if data.training.trials.random is not True or [len(each) for each in splits] != [1, 1]:
        return None
    (ours,), (theirs,) = splits
    if min(ours.samples, theirs.samples) < FEWEST or len(ours.orders) != len(theirs.orders):
        return None
    known = {(i, j): left for i, j, left, _ in theirs.orders}
    mixed = [
        (i, j, left)
        for i, j, left, _ in ours.orders
        if MIXED <= left <= 1 - MIXED and known[i, j] in (0.0, 1.0)
    ]
    heights = {(i, j): up for i, j, _, up in theirs.orders}
    steady = [(up, heights[i, j]) for i, j, _, up in ours.orders if heights[i, j] in (0.0, 1.0)]
    if not mixed or not steady or any(abs(up - there) > STEADY for up, there in steady):
        return None
    return mixed[0]


def _are_apart(found: Strangers, data: Data) -> bool:
    """Whether masks that move do not move with their images, though they belong to them: masks of
    the sample explain more than those of others, or those of the validation fit their images.
    """
    if found.together > TOGETHER:
        return False
    still = data.validation.objects if data.validation is not None else ()
    fits = [each.own for each in still if isinstance(each, Masks) and each.own is not None]
    return found.belong > BELONG or any(own > BELONG for own in fits)
