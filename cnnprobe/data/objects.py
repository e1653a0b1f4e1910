"""Boxes and masks beside their images: what does not lie in its image, has no area, or another
size.
"""

from collections import Counter
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from cnnprobe.data.columns import BatchColumn
from cnnprobe.data.fitting import Outline, find_turn, measure_own, outline
from cnnprobe.data.images import NAMED
from cnnprobe.data.object_facts import Boxes, BoxParts, Masks, Pile, Points
from cnnprobe.data.object_rows import BOXES
from cnnprobe.data.pixels import FILES, open_picture
from cnnprobe.data.spots import Spotted

MASKS = 64  # in which values between two others are looked for
LEAST_BETWEEN = 2  # such values: a single one may be a class of its own, the rim of a cell
MOST_VALUES = 256  # of a mask
LEAST_SIDE = 15  # pixels of a mask in which values between two others are looked for
ON_RAMP = 0.8  # of the pixels of a value
MOST_ORDERED = 64  # key points of a sample whose places are compared
MOST_POINTS = 20_000  # key points whose coordinates are kept
FEWEST_PILED = 10  # coordinates that are one extreme value
NEAR_PILE = 0.1  # of the range of all: next to an extreme value there are others, and
TIMES_NEAR = 3.0  # so many times as many coordinates are no chance
ROUNDED = 0.01  # of the image: boxes in parts of it are written with few digits
# [x1, y1, x2, y2], [center x, center y, width, height], [x1, y1, width, height]
FORMS = ("corners", "centers", "sized")
SLACK = 1.0  # pixel: the last coordinate is written as W or as W - 1


def find_forms(boxes: Tensor) -> dict[str, Tensor]:
    """Which boxes in parts of their image, (N, 4), lie inside of it in each of FORMS, and have an
    area.

    >>> boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4]])
    >>> [form for form, inside in find_forms(boxes).items() if inside.all()]
    ['corners', 'sized']
    """
    first, second = boxes[:, :2], boxes[:, 2:]
    ends = (first, second), (first - second / 2, first + second / 2), (first, first + second)
    return {
        form: ((low >= -ROUNDED) & (high <= 1 + ROUNDED) & (high > low)).all(1)
        for form, (low, high) in zip(FORMS, ends, strict=True)
    }


class BoxTally:
    """Boxes against the images that they lie in."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.first: dict[int, Any] = {}
        self._counts: Counter[str] = Counter()
        self._spotted: list[Spotted] = []
        self._form = "xywh" if "bbox" in path.lower() else ""
        self._centered = path.endswith(BOXES)
        self._reach: Tensor | None = None
        self._scales: list[float] = []

    def add(self, column: BatchColumn, images: BatchColumn | None, spots: list[Spotted]) -> None:
        """Take in the boxes of a batch."""
        for i, spot in enumerate(spots):
            boxes = column.values[i]
            if isinstance(boxes, Tensor) and boxes.numel() and boxes.shape[-1] == 4:
                image = images.values[i] if images is not None else None
                size = tuple(image.shape[-2:]) if isinstance(image, Tensor) else None
                self._form = getattr(getattr(boxes, "format", None), "value", self._form).lower()
                self._judge(boxes.detach().reshape(-1, 4).double(), size, spot)
                self._counts["images"] += 1
                if spot.name and size is not None and len(self._scales) < FILES:
                    self._scales += _compare_sizes(spot.name, size)

    def _judge(self, boxes: Tensor, size: tuple[int, ...] | None, spot: Spotted) -> None:
        self._counts["count"] += len(boxes)
        relative = ((boxes >= 0) & (boxes <= 1)).all(1)
        self._counts["relative"] += int(relative.sum())
        for form, fits in find_forms(boxes[relative]).items():
            self._counts[form] += int(fits.sum())
        absolute = boxes[~relative]
        if self._form == "cxcywh":
            absolute = torch.cat([absolute[:, :2] - absolute[:, 2:] / 2, absolute[:, 2:]], dim=1)
        if self._form in ("xywh", "cxcywh"):
            absolute = torch.cat([absolute[:, :2], absolute[:, :2] + absolute[:, 2:]], dim=1)
        extent = absolute[:, 2:] - absolute[:, :2]
        empty, swapped = (extent <= 0).any(1), (extent < 0).any(1)
        left, up = (extent[:, k] < 0 for k in (0, 1))
        for key, found in (("x", left & ~up), ("y", up & ~left), ("both", left & up)):
            self._counts[key] += int(found.sum())
        outside = torch.zeros_like(empty)
        inside = torch.zeros_like(empty)
        if size is not None:
            self._extend(absolute[~empty] / torch.tensor([size[1], size[0]] * 2))
            limit = torch.tensor([size[1], size[0]], dtype=torch.float64) + SLACK
            outside = (absolute[:, 2:] > limit).any(1) | (absolute[:, :2] < -SLACK).any(1)
            turned = outside & (absolute[:, 2:].flip(1) <= limit).all(1)
            self._counts["turned"] += int(turned.sum())
            inside = ((absolute[:, :2] + absolute[:, 2:]) <= limit).all(1)
            self._counts["sized"] += int(inside.sum())
        self._counts["empty"] += int(empty.sum())
        self._counts["swapped"] += int((swapped & inside).sum())
        self._counts["outside"] += int((outside & ~empty).sum())
        if bool((outside | empty).any()) and len(self._spotted) < NAMED:
            self._spotted.append(spot)

    def _extend(self, parts: Tensor) -> None:
        if len(parts):
            found = torch.cat([parts[:, :2].amin(0), parts[:, 2:].amax(0)])
            if self._reach is not None:
                least = torch.minimum(found[:2], self._reach[:2])
                found = torch.cat([least, torch.maximum(found[2:], self._reach[2:])])
            self._reach = found

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
            turned=counts["turned"],
            relative=counts["relative"],
            parts=BoxParts(**{form: counts[form] for form in FORMS}, centered=self._centered),
            crossed=(counts["x"], counts["y"], counts["both"]),
            sized=counts["sized"],
            spotted=tuple(self._spotted),
            reach=tuple(self._reach.tolist()) if self._reach is not None else (),
            images=counts["images"],
            resized=self._scales[0] if len(set(self._scales)) == 1 else None,
        )


def _compare_sizes(path: str, size: tuple[int, ...]) -> list[float]:
    """By what factor an image is larger than its file, where height and width agree."""
    picture = open_picture(path, (64, 64), whole=False)
    if picture is None:
        return []
    high, wide = size[0] / picture.height, size[1] / picture.width
    return [round(high, 2)] if abs(high - wide) < 0.02 * high else []


class PointTally:
    """Key points against the images that they lie in."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._counts: Counter[str] = Counter()
        self._orders: Tensor | None = (
            None  # (2, K, K): samples where x, y of one is below another's
        )
        self._ordered = 0
        self._kept: list[Tensor] = []
        self._sizes: set[float] = set()  # of the images

    def add(self, column: BatchColumn, images: BatchColumn | None, spots: list[Spotted]) -> None:
        """Take in the points of a batch; those in parts of the image are passed over."""
        for i in range(len(spots)):
            points, image = column.values[i], images.values[i] if images is not None else None
            if not isinstance(points, Tensor) or not isinstance(image, Tensor) or points.dim() < 2:
                continue
            xy = points.detach().reshape(-1, points.shape[-1])[:, :2].double()
            self._add_order(xy)
            if sum(map(len, self._kept)) < MOST_POINTS:
                self._kept.append(xy)
                self._sizes.update(float(n) for n in image.shape[-2:])
            if not len(xy) or bool((xy <= 1).all()):
                continue
            limit = torch.tensor([image.shape[-1], image.shape[-2]], dtype=torch.float64) + SLACK
            outside = (xy > limit).any(1)
            self._counts["count"] += len(xy)
            self._counts["outside"] += int(outside.sum())
            self._counts["turned"] += int((outside & (xy.flip(1) <= limit).all(1)).sum())

    def describe(self) -> Points:
        """What was met, as plain data."""
        return Points(
            path=self.path,
            samples=self._ordered,
            orders=self._list_orders(),
            pile=self._find_pile(),
            **{k: self._counts[k] for k in ("count", "outside", "turned")},
        )

    def _find_pile(self) -> Pile | None:
        """An extreme value that many points have in one of their coordinates alone."""
        kept = torch.cat(self._kept) if self._kept else torch.empty(0, 2)
        points = kept[kept.isfinite().all(1) & (kept[:, 0] != kept[:, 1])]
        for values in (points, -points) if len(points) else ():
            least, most = (float(each) for each in values.aminmax())
            piled = int((values == least).any(1).sum())
            near = int(((values > least) & (values <= least + NEAR_PILE * (most - least))).sum())
            if piled >= FEWEST_PILED and piled > TIMES_NEAR * near:
                value = float(points[values == least][0])
                return Pile(value=value, points=piled, among=len(kept), near=near,
                            at_border=value in self._list_borders())  # fmt: skip
        return None

    def _list_borders(self) -> set[float]:
        """Where points are put that were cut off at the border of their image."""
        return {0.0, 1.0, *self._sizes, *(size - 1 for size in self._sizes)}

    def _add_order(self, xy: Tensor) -> None:
        """Which of two points stands further left, and which further up."""
        if not 2 <= len(xy) <= MOST_ORDERED or not bool(xy.isfinite().all()):
            return
        if self._orders is None:
            self._orders = torch.zeros(2, len(xy), len(xy))
        if self._orders.shape[1] == len(xy):
            self._orders += xy.T[:, :, None] < xy.T[:, None, :]
            self._ordered += 1

    def _list_orders(self) -> tuple[tuple[int, int, float, float], ...]:
        if self._orders is None:
            return ()
        left, up = (self._orders / self._ordered).tolist()
        pairs = combinations(range(len(left)), 2)
        return tuple((i, j, left[i][j], up[i][j]) for i, j in pairs)


class MaskTally:
    """Sizes of masks against those of their images, and values that an interpolation made."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._unequal = 0
        self._ratios: set[tuple[float, float]] = set()
        self._spotted: list[Spotted] = []
        self._looked = self._classes = self._between = 0
        self._values: list[float] = []
        self._sides: Counter[str] = Counter()
        self._outlines: list[Outline] = []

    def add(self, column: BatchColumn, images: BatchColumn | None, spots: list[Spotted]) -> None:
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
            pair = outline(image, mask) if len(self._outlines) < MASKS else None
            self._outlines += [] if pair is None else [pair]
            if self._looked < MASKS and mask.dim() in (2, 3) and min(mask.shape[-2:]) > 2:
                self._look_between(mask.detach())

    def _look_between(self, mask: Tensor) -> None:
        mask = mask.reshape(-1, *mask.shape[-2:])[0]
        self._looked += 1
        self._sides[find_side(mask)] += 1
        # In a mask of few pixels any class of a small object stands between two others.
        areas, between = find_between(mask) if min(mask.shape) >= LEAST_SIDE else (0, [])
        self._classes += areas > 1
        if len(between) >= LEAST_BETWEEN:
            self._between += 1
            self._values = self._values or between[:NAMED]

    def describe(self) -> Masks:
        """What was met, as plain data."""
        ratio = None
        if len(self._ratios) == 1:
            ((high, wide),) = self._ratios
            ratio = high if high == wide else None
        return Masks(
            path=self.path, unequal=self._unequal, ratio=ratio, spotted=tuple(self._spotted),
            classes=self._classes, between=self._between, between_values=tuple(self._values),
            inside=self._sides["inside"], around=self._sides["around"],
            across=self._sides["across"], turned=find_turn(self._outlines),
            own=measure_own(self._outlines),
        )  # fmt: skip


def find_side(mask: Tensor) -> str:
    """Where the greater of the two values of a mask lies: "inside" of the other, all "around" it,
    or "across" the border of the mask; "" where there are more values, or a single one.

    >>> mask = torch.zeros(4, 4)
    >>> mask[1:3, 1:3] = 1
    >>> find_side(mask), find_side(1 - mask), find_side(mask.roll(1, 0))
    ('inside', 'around', 'across')
    """
    low, high = mask.aminmax()
    if low == high or not bool(((mask == low) | (mask == high)).all()):
        return ""
    border = torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]]) == high
    share = float(border.float().mean())
    return "around" if share == 1 else "across" if share > 0 else "inside"


def find_between(mask: Tensor) -> tuple[int, list[float]]:
    """How many values of a mask have an area, and which of the others stand but between two of
    them.

    Args:
        mask: shape (H, W).

    An area is a pixel whose eight neighbours have its value. A value stands between where there
    are areas of lesser and of greater values, and nearly all its pixels have both within two
    pixels, as on a ramp.

    >>> mask = torch.zeros(6, 9)
    >>> mask[:, 4], mask[:, 5], mask[:, 6:] = 1.0, 2.0, 3.0
    >>> find_between(mask)
    (2, [1.0, 2.0])
    """
    values = torch.unique(mask)
    if not 2 < len(values) <= MOST_VALUES:
        return min(2, len(values)), []
    padded = pad(mask[None, None].float(), (1, 1, 1, 1), mode="replicate")
    high = max_pool2d(padded, 3, stride=1)[0, 0]
    low = -max_pool2d(-padded, 3, stride=1)[0, 0]
    areas = torch.unique(mask[high == low]).tolist()
    if len(areas) < 2:
        return len(areas), []
    near = pad(mask[None, None].float(), (2, 2, 2, 2), mode="replicate")
    greater = max_pool2d(near, 5, stride=1)[0, 0] > mask
    ramp = greater & (-max_pool2d(-near, 5, stride=1)[0, 0] < mask)
    found = [v for v in values.tolist() if areas[0] < v < areas[-1] and v not in areas]
    return len(areas), [v for v in found if float(ramp[mask == v].float().mean()) >= ON_RAMP]


def take_objects(
    images: BatchColumn, boxes: BatchColumn | None, masks: BatchColumn | None, i: int
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
        path = boxes.path if boxes is not None else ""
        within = bool(((corners >= 0) & (corners <= 1)).all())
        if path.endswith(BOXES) or (within and not find_forms(corners)["corners"].all()):
            form = "cxcywh"
        if form in ("xywh", "cxcywh") or "bbox" in path.lower():
            first = corners[:, :2] - (corners[:, 2:] / 2 if form == "cxcywh" else 0)
            corners = torch.cat([first, first + corners[:, 2:]], dim=1)
        if not within:
            high, wide = image.shape[-2:]
            corners = corners / torch.tensor([wide, high, wide, high])
    mask = masks.values[i] if masks is not None else None
    if isinstance(mask, Tensor) and mask.dim() >= 2:
        mask = mask.detach().reshape(-1, *mask.shape[-2:]).amax(0)[:512, :512]
    return corners, mask if isinstance(mask, Tensor) else None
