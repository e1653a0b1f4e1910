"""Boxes that were not scaled along with their images."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.object_facts import Boxes
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import detections
from cnnprobe.data.words import shape
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

BEYOND = 1.1  # of the side of the image: what reaches farther was meant for a larger one
MANY = 0.2  # of the boxes are outside
FEWEST = 5  # boxes
SHORT = 0.6  # of both sides: boxes that begin at the upper left and never reach farther
LEFT = 0.1  # of both sides: they begin there
FAR = 1.5  # of the longer side of the images: key points that reach farther
ENOUGH = 30  # boxes of which that is said
CLOSE = 0.2  # of the factor by which the images were resized


def _resized(factor: float) -> Mapping[str, Any]:
    boxes = [[2, 3, 9, 12], [20, 16, 30, 31], [11, 1, 25, 14], [4, 19, 15, 30], [16, 10, 28, 22]]
    return {"loader": detections([[factor * side for side in box] for box in boxes])}


def sick() -> Mapping[str, Any]:
    """Images of 64 pixels resized to 32, with their boxes as they were."""
    return _resized(2.0)


def healthy() -> Mapping[str, Any]:
    """Boxes that end at the border, and a pixel beyond."""
    return _resized(1.05)


@data_rule(
    code="CP840", name="unscaled-boxes", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("impossible-boxes",),
)  # fmt: skip
def unscaled_boxes(data: Data) -> Iterator[Finding]:
    """Boxes or key points have the scale of another size of their images.

    Why it matters: the boxes lie beside their objects, and the detector learns the wrong places.
    What to do: v2.Resize(size)(image, tv_tensors.BoundingBoxes(...)), which scales both.
    Known exceptions: boxes that are too small for their images are info, unless the files tell by
    what factor the images were resized.
    Source: torchvision.transforms.v2, "transforms for bounding boxes, masks".
    """
    for split in data.splits:
        yield from _list_points(split)
        for boxes in split.objects:
            if not isinstance(boxes, Boxes) or len(boxes.reach) != 4:
                continue
            what = (
                f"{format_counted(boxes.count, 'box', 'boxes')} {boxes.path} of the {split.name} "
                "data"
            )
            wide, high = boxes.reach[2:]
            if boxes.count >= FEWEST and boxes.outside > MANY * boxes.count:
                if min(wide, high) > BEYOND or (max(wide, high) > 2 * BEYOND):
                    yield Finding(
                        message=(
                            f"{what} reach to {wide:.2g} times the width and {high:.2g} times the "
                            "height of their images: they were not scaled with them"
                        ),
                        fix="resize images and boxes in one call of a v2 transform",
                    )
            elif boxes.count >= ENOUGH and max(wide, high) < SHORT > LEFT > max(boxes.reach[:2]):
                yield _too_small(what, boxes)


def _too_small(what: str, boxes: Boxes) -> Finding:
    known = boxes.resized is not None and boxes.resized > 1
    fits = known and max(boxes.reach[2:]) * (boxes.resized or 1) < 1 + CLOSE
    files = f"; the images are {boxes.resized:g} times as large as their files" if fits else ""
    reach = shape(round(100 * side) for side in boxes.reach[2:])
    return Finding(
        severity=None if fits else Severity.INFO,
        message=(
            f"{what} reach to no more than {reach}% of width and height and begin at the upper "
            f"left: as if they were not scaled with their images{files}"
        ),
        fix="resize images and boxes in one call of a v2 transform",
    )


def _list_points(split: Split) -> Iterator[Finding]:
    """Key points far outside of images that are all of one size."""
    image = next(iter(split.of("image")), None)
    if image is None or len(image.shapes) != 1 or len(image.shapes[0][0]) != 3:
        return
    side = max(image.shapes[0][0][-2:])
    for part in split.of("points"):
        if part.numbers is not None and part.numbers.high > FAR * side:
            yield Finding(
                message=(
                    f"the key points {part.path} of the {split.name} data reach to "
                    f"{part.numbers.high:.4g}, images have no more than {side} pixels a side: they "
                    "were not scaled with them"
                ),
                fix="resize images and key points in one call of a v2 transform",
            )
