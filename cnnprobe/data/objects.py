"""Boxes and masks beside their images: what does not lie in its image, has no area, or another
size.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from cnnprobe.data.columns import Column
from cnnprobe.data.facts import Boxes, Masks, Spotted
from cnnprobe.data.images import NAMED

SLACK = 1.0  # pixel: the last coordinate is written as W or as W - 1


class BoxTally:
    """Boxes against the images that they lie in."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.first: dict[int, Any] = {}
        self._counts: Counter[str] = Counter()
        self._spotted: list[Spotted] = []
        self._form = "xywh" if "bbox" in path.lower() else ""

    def add(self, column: Column, images: Column | None, spots: list[Spotted]) -> None:
        """Take in the boxes of a batch."""
        for i, spot in enumerate(spots):
            boxes = column.values[i]
            if isinstance(boxes, Tensor) and boxes.numel() and boxes.shape[-1] == 4:
                image = images.values[i] if images is not None else None
                size = tuple(image.shape[-2:]) if isinstance(image, Tensor) else None
                self._form = getattr(getattr(boxes, "format", None), "value", self._form).lower()
                self._judge(boxes.detach().reshape(-1, 4).double(), size, spot)

    def _judge(self, boxes: Tensor, size: tuple[int, ...] | None, spot: Spotted) -> None:
        self._counts["count"] += len(boxes)
        relative = ((boxes >= 0) & (boxes <= 1)).all(1)
        self._counts["relative"] += int(relative.sum())
        absolute = boxes[~relative]
        if self._form == "cxcywh":
            absolute = torch.cat([absolute[:, :2] - absolute[:, 2:] / 2, absolute[:, 2:]], dim=1)
        if self._form in ("xywh", "cxcywh"):
            absolute = torch.cat([absolute[:, :2], absolute[:, :2] + absolute[:, 2:]], dim=1)
        extent = absolute[:, 2:] - absolute[:, :2]
        empty, swapped = (extent <= 0).any(1), (extent < 0).any(1)
        outside = torch.zeros_like(empty)
        inside = torch.zeros_like(empty)
        if size is not None:
            limit = torch.tensor([size[1], size[0]], dtype=torch.float64) + SLACK
            outside = (absolute[:, 2:] > limit).any(1) | (absolute[:, :2] < -SLACK).any(1)
            inside = ((absolute[:, :2] + absolute[:, 2:]) <= limit).all(1)
        self._counts["empty"] += int(empty.sum())
        self._counts["swapped"] += int((swapped & inside).sum())
        self._counts["outside"] += int((outside & ~empty).sum())
        if bool((outside | empty).any()) and len(self._spotted) < NAMED:
            self._spotted.append(spot)

    def describe(self) -> Boxes:
        """What was met, as plain data."""
        counts = self._counts
        all_relative = 0 < counts["count"] == counts["relative"]
        return Boxes(
            path=self.path,
            count=counts["count"],
            form="relative" if all_relative else self._form or "xyxy",
            outside=counts["outside"],
            empty=counts["empty"],
            swapped=counts["swapped"],
            relative=counts["relative"],
            spotted=tuple(self._spotted),
        )


class MaskTally:
    """Sizes of masks against those of their images."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._unequal = 0
        self._ratios: set[tuple[float, float]] = set()
        self._spotted: list[Spotted] = []

    def add(self, column: Column, images: Column | None, spots: list[Spotted]) -> None:
        """Take in the masks of a batch."""
        for i, spot in enumerate(spots):
            mask, image = column.values[i], images.values[i] if images is not None else None
            if not isinstance(mask, Tensor) or not isinstance(image, Tensor) or not mask.numel():
                continue
            high, wide = (a / b for a, b in zip(image.shape[-2:], mask.shape[-2:], strict=True))
            if len(self._ratios) < NAMED:
                self._ratios.add((high, wide))
            if mask.shape[-2:] != image.shape[-2:]:
                self._unequal += 1
                if len(self._spotted) < NAMED:
                    self._spotted.append(spot)

    def describe(self) -> Masks:
        """What was met, as plain data."""
        ratio = None
        if len(self._ratios) == 1:
            ((high, wide),) = self._ratios
            ratio = high if high == wide else None
        return Masks(
            path=self.path, unequal=self._unequal, ratio=ratio, spotted=tuple(self._spotted)
        )


def take_objects(
    images: Column, boxes: Column | None, masks: Column | None, i: int
) -> tuple[Tensor | None, Tensor | None]:
    """The boxes of a sample in parts of its image, as corners, and its mask, (H, W); None where
    there is none.
    """
    image = images.values[i]
    given = boxes.values[i] if boxes is not None else None
    corners = None
    if isinstance(given, Tensor) and given.numel() and isinstance(image, Tensor):
        corners = given.detach().reshape(-1, 4).float()
        form = getattr(getattr(given, "format", None), "value", "").lower()
        if form in ("xywh", "cxcywh") or "bbox" in (boxes.path.lower() if boxes else ""):
            first = corners[:, :2] - (corners[:, 2:] / 2 if form == "cxcywh" else 0)
            corners = torch.cat([first, first + corners[:, 2:]], dim=1)
        if not bool(((corners >= 0) & (corners <= 1)).all()):
            high, wide = image.shape[-2:]
            corners = corners / torch.tensor([wide, high, wide, high])
    mask = masks.values[i] if masks is not None else None
    if isinstance(mask, Tensor) and mask.dim() >= 2:
        mask = mask.detach().reshape(-1, *mask.shape[-2:]).amax(0)[:512, :512]
    return corners, mask if isinstance(mask, Tensor) else None
