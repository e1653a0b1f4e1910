"""Boxes without area, or outside of their image."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.object_facts import Boxes
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import detections
from cnnprobe.data.words import name_samples
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

FEW = 0.5  # of the boxes: where more are swapped, they are written in another form (box-format)


def sick() -> Mapping[str, Any]:
    """One box is empty, and one ends at pixel 40 of 32."""
    return {"loader": detections([[4, 4, 20, 20], [8, 8, 8, 20], [10, 10, 40, 30]])}


def healthy() -> Mapping[str, Any]:
    """One ends at the border."""
    return {"loader": detections([[4, 4, 20, 20], [0, 0, 32, 32]])}


@data_rule(
    code="CP825",
    name="impossible-boxes",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def impossible_boxes(data: Data) -> Iterator[Finding]:
    """Boxes that have no area, or that lie outside of their image.

    Why it matters: a box without area makes the loss NaN or the model raise; one outside was not
    moved along with its image.
    What to do: v2.ClampBoundingBoxes and v2.SanitizeBoundingBoxes after the transforms; resize
    images and boxes in one call.
    Known exceptions: up to one pixel beyond the border; boxes in parts of the image (all from 0 to
    1).
    Source: torchvision.models.detection.generalized_rcnn raises on boxes without positive height
    and width.
    """
    for split in data.splits:
        for boxes in split.objects:
            if not isinstance(boxes, Boxes) or boxes.swapped > FEW * boxes.count:
                continue
            said = []
            if boxes.empty - boxes.swapped > 0:
                said.append(f"{boxes.empty - boxes.swapped:,} without area")
            if boxes.outside:
                said.append(f"{boxes.outside:,} partly outside of the image")
            if said and boxes.form != "relative":
                yield Finding(
                    message=(
                        f"of {format_counted(boxes.count, 'box', 'boxes')} {boxes.path} of the "
                        f"{split.name} data: {', '.join(said)}: {name_samples(boxes.spotted)}"
                    ),
                    fix="v2.ClampBoundingBoxes(), then v2.SanitizeBoundingBoxes()",
                )
