"""The objects of all images of a batch in one tensor, as YOLO's loaders give them: a row (image,
class, center x, center y, width, height) of each.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from cnnprobe.data.columns import BatchColumn

WIDTH = 6  # numbers of a row
FEWEST = 4  # rows
BOXES, LABELS = "[:, 2:]", "[:, 1]"  # of a row, behind the path of all


def find_object_rows(columns: Sequence[BatchColumn], images: int) -> tuple[str, ...]:
    """The paths of tensors whose rows are objects: the number of one of so many images, a class,
    and four parts of the image.
    """
    return tuple(column.path for column in columns if _are_rows(column.values, images))


def _are_rows(values: object, images: int) -> bool:
    if not isinstance(values, Tensor) or values.dim() != 2 or not values.is_floating_point():
        return False
    if values.shape[1] != WIDTH or len(values) < FEWEST:
        return False
    places, classes, parts = values[:, 0], values[:, 1], values[:, 2:]
    whole = bool((values[:, :2] == values[:, :2].round()).all())
    in_order = bool((places.diff() >= 0).all()) and 0 <= int(places[0]) < int(places[-1]) < images
    within = bool(((parts >= 0) & (parts <= 1)).all()) and bool((parts > 0).any())
    return whole and in_order and within and bool((classes >= 0).all())


def split_rows(
    columns: Mapping[str, BatchColumn], paths: Iterable[str], images: int
) -> dict[str, BatchColumn]:
    """The columns, with the boxes and the classes of each image in place of such rows."""
    found = dict(columns)
    for path in paths:
        rows = found.pop(path).values if path in found else torch.empty(0, WIDTH)
        own = [rows[rows[:, 0] == i] for i in range(images)]
        found[path + BOXES] = BatchColumn(path + BOXES, [each[:, 2:] for each in own])
        found[path + LABELS] = BatchColumn(path + LABELS, [each[:, 1].long() for each in own])
    return found
