"""Boxes in another form than the rest."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.object_facts import Boxes, Points
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import detections
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

TURNED = 0.2  # of the boxes are outside, and
ALL = 0.95  # of these would be inside with x and y exchanged
FEWEST = 5  # boxes of which one pair of numbers is the wrong way round
INSIDE = 0.99  # of the boxes lie in their image: the form in which they are written
_WRITTEN = {"corners": "[x1, y1, x2, y2]", "centers": "[center x, center y, width, height]",
            "sized": "[x, y, width, height] from the top left"}  # fmt: skip
_NAMES = {"corners": "xyxy", "centers": "cxcywh", "sized": "xywh"}
LEAST = 0.05  # of the boxes: a single swapped one may be a slip of the pen


def sick() -> Mapping[str, Any]:
    """[x, y, width, height] where [x1, y1, x2, y2] is meant."""
    return {"loader": detections([[20, 20, 8, 8], [4, 4, 20, 20], [16, 2, 10, 12]])}


def healthy() -> Mapping[str, Any]:
    """[x1, y1, x2, y2]."""
    return {"loader": detections([[20, 20, 28, 28], [4, 4, 24, 24], [16, 2, 26, 14]])}


@data_rule(
    code="CP826",
    name="box-format",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("impossible-boxes", "unscaled-boxes"),
)
def box_format(data: Data) -> Iterator[Finding]:
    """Boxes are written in another form than their name says, or in two forms; key points as (y,
    x).

    Boxes of flipped images whose x1 and x2 were not exchanged are reported as such.

    Why it matters: [x, y, width, height] taken for corners are other boxes, most of them empty.
    What to do: torchvision.ops.box_convert(boxes, "xywh", "xyxy"); or tv_tensors.BoundingBoxes,
    which know their format.
    Rows of all objects of a batch, (image, class, x, y, width, height) in parts of the image, are
    taken for those of YOLO, whose x and y are the center.
    Known exceptions: what is called "bbox" is taken for COCO's [x, y, width, height]. Boxes in
    parts of their image that lie inside of it in the form that is meant are not reported, whatever
    they were.
    Source: cocodataset.org, "format-data": bbox [x, y, width, height];
    torchvision.models.detection: boxes [x1, y1, x2, y2].
    """
    for split in data.splits:
        yield from _list_points(split)
        for boxes in split.objects:
            if not isinstance(boxes, Boxes) or not boxes.count:
                continue
            if boxes.form == "xyxy" and (flipped := _tell_flip(boxes, split)):
                yield flipped
            elif boxes.swapped > LEAST * boxes.count and boxes.form == "xyxy":
                yield Finding(
                    message=(
                        f"{boxes.swapped:,} of {format_counted(boxes.count, 'box', 'boxes')} "
                        f"{boxes.path} of the {split.name} data have x2 < x1 or y2 < y1, and lie "
                        "in their "
                        "image as [x, y, width, height]"
                    ),
                    fix='torchvision.ops.box_convert(boxes, "xywh", "xyxy")',
                )
            elif boxes.turned > TURNED * boxes.count and boxes.turned >= ALL * boxes.outside:
                yield Finding(
                    message=(
                        f"{boxes.turned:,} of {format_counted(boxes.count, 'box', 'boxes')} "
                        f"{boxes.path} of the {split.name} data lie outside of their image, and "
                        "inside of it "
                        "as [y1, x1, y2, x2]"
                    ),
                    fix="boxes[:, [1, 0, 3, 2]]",
                )
            elif boxes.form == "relative":
                yield from _judge_parts(boxes, split)
            elif LEAST * boxes.count < boxes.relative < boxes.count:
                yield Finding(
                    severity=Severity.WARNING,
                    message=(
                        f"{boxes.relative:,} of {format_counted(boxes.count, 'box', 'boxes')} "
                        f"{boxes.path} of the {split.name} data lie in [0, 1], the others in "
                        "pixels"
                    ),
                    fix="bring all boxes to one scale",
                )


def _judge_parts(boxes: Boxes, split: Split) -> Iterator[Finding]:
    """Boxes in parts of their image that lie inside of it in another form alone."""
    parts, count = boxes.parts, boxes.count
    fits = {form: getattr(parts, form) >= INSIDE * count for form in _WRITTEN}
    meant = ("centers",) if parts.centered else ("corners", "centers")
    other = next((form for form in ("sized", "corners") if fits[form] and form not in meant), "")
    wrong = count - max(getattr(parts, form) for form in meant)
    if other and wrong > max(FEWEST, LEAST * count):
        yield Finding(
            message=(
                f"{wrong:,} of {format_counted(count, 'box', 'boxes')} {boxes.path} of the "
                f"{split.name} data reach beyond their image as {_WRITTEN[meant[-1]]}, and lie "
                f"inside of it as {_WRITTEN[other]}"
            ),
            fix=f'torchvision.ops.box_convert(boxes, "{_NAMES[other]}", "{_NAMES[meant[-1]]}")',
        )


def _tell_flip(boxes: Boxes, split: Split) -> Finding | None:
    """Boxes that were flipped, and whose corners were not exchanged: one pair of their numbers is
    the wrong way round, and the rest lie in their images as corners alone.
    """
    crossed, among = boxes.crossed, boxes.count - boxes.relative
    k = 0 if crossed[0] >= crossed[1] else 1
    if crossed[k] <= LEAST * among or crossed[k] < max(FEWEST, ALL * sum(crossed)):
        return None
    if boxes.sized >= ALL * among:
        return None  # all of them are [x, y, width, height]
    other = "yx"[k]
    name, way, size = (("x", "left to right", "width"), ("y", "top to bottom", "height"))[k]
    return Finding(
        message=(
            f"{crossed[k]:,} of {format_counted(boxes.count, 'box', 'boxes')} {boxes.path} of the "
            f"{split.name} data have {name}2 < {name}1, and {sum(crossed) - crossed[k] or 'none'} "
            f"have {other}2 < {other}1: boxes were flipped from {way}, and {name}1 and {name}2 not "
            "exchanged"
        ),
        fix=f"boxes[:, [{k}, {k + 2}]] = {size} - boxes[:, [{k + 2}, {k}]]",
    )


def _list_points(split: Split) -> Iterator[Finding]:
    for points in split.objects:
        if not isinstance(points, Points) or points.outside <= LEAST * points.count:
            continue
        if points.turned >= ALL * points.outside:
            yield Finding(
                severity=Severity.WARNING,
                message=(
                    f"{points.turned:,} of {points.count:,} key points {points.path} of the "
                    f"{split.name} data lie outside of their image, and all inside of it as (y, x)"
                ),
                fix="key_points[..., [1, 0]]; np.argwhere and np.nonzero give the row first",
            )
