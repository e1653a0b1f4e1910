"""Which part of a batch is the image, the label, the mask, the boxes: by names, shapes, types and
order.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnprobe.data.columns import BatchColumn

LEAST_SIDE = 4  # pixels: what is smaller is no image
LEAST_LAST = 8  # pixels, where the channels come last
MOST_ASPECT = 4  # of height and width, there
COLOURS = (1, 3, 4)
FEW_VALUES = 64  # distinct values of a mask in one image; a photo has more
_INPUTS = re.compile(r"image|img|pixel|input|picture|photo|^x\d*$|video|audio|spec|volume|frames")
_TARGETS = re.compile(r"label|target|class|categor|digit|^y$")
_MASKS = re.compile(r"mask|seg|annotation_map")
_BOXES = re.compile(r"box")
_POINTS = re.compile(r"key_?p(oin)?ts?|landmark|joint|kpt|^points$|^pts$")
_PADDING = re.compile(r"(pixel|attention|pad(ding)?|valid)_?mask|^valid$")
MOST_SIZES = 0.8  # of the sizes before padding: images may end in one colour
_TARGET_ROLES = ("class", "classes", "multilabel", "value")


def assign_roles(columns: Sequence[BatchColumn]) -> dict[str, str]:
    """Path to role, for the columns of the first batch.

    The input is the part that is named so, else the first that looks like images; a part of the
    same height and width with few values beside it is a mask.
    """
    roles = {column.path: _role(column) for column in columns}
    for column in columns:
        if roles[column.path] == "class" and any(
            _is_length(column, other) or _is_size(column, other) for other in columns
        ):
            roles[column.path] = "other"
    main = choose_main(columns, roles)
    if main is None:
        return roles
    for column in columns:
        if column is not main and (roles[column.path] == "mask" or _is_mask(column, main)):
            roles[column.path] = "other" if _is_padding(column) else "mask"
        elif roles[column.path] in _TARGET_ROLES and _is_no_target(column, main, columns):
            roles[column.path] = "other"
    rows = [c.path for c in columns if roles[c.path] == "other" and _is_row_of_one(c, main)]
    if len(rows) == 1 and not set(roles.values()) & set(_TARGET_ROLES):
        roles[rows[0]] = "class"
    return roles


def _is_row_of_one(column: BatchColumn, main: BatchColumn) -> bool:
    """Whether a column has a single whole number in a dim of its own for each image, as labels of
    shape (N, 1) have.
    """
    values, name = column.values, _last_name(column.path)
    if not isinstance(values, Tensor) or values.dim() != 2 or len(values) != len(main):
        return False
    whole = not values.dtype.is_floating_point
    return whole and values.shape[1] == 1 and _role_of_number(values[0, 0], name) == "class"


def find_channels_last(columns: Sequence[BatchColumn]) -> list[str]:
    """The paths of images that come as (H, W, C): their last dim is that of one, three or four
    colours.
    """
    return [column.path for column in columns if _is_channels_last(column)]


def _is_channels_last(column: BatchColumn) -> bool:
    value = column.first
    if not isinstance(value, Tensor) or not _is_plain(value) or value.dim() not in (3, 4):
        return False
    if value.shape[-1] not in COLOURS or _BOXES.search(_last_name(column.path)):
        return False
    sides = value.shape[-3:-1]
    return min(sides) >= LEAST_LAST and max(sides) <= MOST_ASPECT * min(sides)


def count_images(columns: Sequence[BatchColumn]) -> int:
    """The images of a batch: the length of the first part with height and width; 0: there are
    none.
    """
    pictures = (c for c in columns if isinstance(c.first, Tensor) and c.first.dim() >= 2)
    return next((len(c) for c in pictures if min(c.first.shape[-2:]) >= LEAST_SIDE), 0)


def choose_main(columns: Sequence[BatchColumn], roles: Mapping[str, str]) -> BatchColumn | None:
    """The images that the model gets: those that are named so, else the first; None where there are
    none.
    """
    pictures = [column for column in columns if roles[column.path] == "image"]
    named = [column for column in pictures if _INPUTS.search(_last_name(column.path))]
    return next(iter(named or pictures), None)


def choose_target(columns: Sequence[BatchColumn], roles: Mapping[str, str]) -> BatchColumn | None:
    """The class labels: those that are named so, else the first numbers of which some are equal;
    None where there are none.
    """
    classes = [column for column in columns if roles[column.path] == "class"]
    named = [column for column in classes if _TARGETS.search(_last_name(column.path))]
    shared = [column for column in classes if _has_equal(column)]
    return next(iter(named or shared or classes), None)


def _is_padding(column: BatchColumn) -> bool:
    """Whether a mask says which pixels of a padded batch are those of the image: by its name, or by
    its ones, which fill the upper left of each sample and leave some of the others free.
    """
    if _PADDING.search(_last_name(column.path)):
        return True
    values = column.values
    if not isinstance(values, Tensor) or values.dim() != 3 or values.dtype.is_floating_point:
        return False
    ones = values != 0
    rows, columns = ones.any(2), ones.any(1)
    is_box = bool((ones == (rows[:, :, None] & columns[:, None, :])).all())
    starts = bool(ones[:, 0, 0].all()) and all(
        bool((each[:, 1:] <= each[:, :-1]).all()) for each in (rows, columns)
    )
    return is_box and starts and bool(ones.flatten(1).all(1).any()) and int(values.max()) == 1


def _is_size(column: BatchColumn, padded: BatchColumn) -> bool:
    """Whether numbers say how wide, high or long each of some padded images is, in their own order
    or in another: behind that nothing but padding follows.
    """
    numbers, rows = column.values, padded.values
    if not isinstance(numbers, Tensor) or not isinstance(rows, Tensor):
        return False
    if (
        not _is_plain(rows)
        or rows.dim() < 3
        or numbers.dim() != 1
        or numbers.is_floating_point()
        or len(rows) != len(numbers)
    ):
        return False
    said = numbers.tolist()
    return any(
        _may_end(rows, dim, said) and _fit(measure_sizes(rows, dim), said) for dim in (-1, -2, 1)
    )


def _may_end(rows: Tensor, dim: int, said: Sequence[int]) -> bool:
    """Whether as many samples as are said to be smaller than the batch end in a single value along
    a dim: but the last places are read.
    """
    size = rows.shape[dim]
    if min(said) < 1 or max(said) > size:
        return False
    last = rows.select(dim, size - 1).flatten(1)
    padded = int((last == last[:, :1]).all(1).sum())
    return padded >= MOST_SIZES * sum(each < size for each in said)


def _fit(measured: Sequence[int], said: Sequence[int]) -> bool:
    """Whether nearly all sizes are those that were said, in any order, and not all are the same."""
    pairs = list(zip(sorted(measured), sorted(said), strict=True))
    return len(set(said)) > 1 and sum(a == b for a, b in pairs) >= MOST_SIZES * len(pairs)


def measure_sizes(rows: Tensor, dim: int) -> list[int]:
    """The size of each sample along a dim without the padding at its end: what equals the last
    value there.
    """
    moved = rows.movedim(dim, 1).flatten(2)
    filled = (moved != moved[:, -1:, :1]).any(2)
    sizes = (filled * torch.arange(1, filled.shape[1] + 1)).amax(1).tolist()
    return [n or moved.shape[1] for n in sizes]


def find_episode(roles: Mapping[str, str]) -> tuple[str, str] | None:
    """The paths of the support and of the query images, by their names; None where there are
    none.
    """
    images = [path for path, role in roles.items() if role == "image"]
    found = [
        [path for path in images if re.search(name, _last_name(path))]
        for name in ("support|context", "query")
    ]
    return (found[0][0], found[1][0]) if all(len(each) == 1 for each in found) else None


def share_image(support: Any, query: Any) -> bool:
    """Whether two stacks of images, (K, C, H, W), hold one that is equal."""
    known = {np.asarray(image.detach().cpu()).tobytes() for image in support}
    return any(np.asarray(image.detach().cpu()).tobytes() in known for image in query)


def list_shared(
    support: BatchColumn | None, query: BatchColumn | None, *, joined: bool
) -> list[bool]:
    """Of each episode, a batch or (joined to a batch) a sample of one, whether its query holds a
    support image.
    """
    if support is None or query is None:
        return []
    a, b = support.values, query.values
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return []
    if a.dim() == 4 and not joined:
        return [share_image(a, b)]
    return [share_image(x, y) for x, y in zip(a, b, strict=True)] if a.dim() == 5 else []


def _is_length(column: BatchColumn, sequences: BatchColumn) -> bool:
    """Whether numbers say how long each of some padded sequences is: the rest of each is
    padding.
    """
    numbers, rows = column.values, sequences.values
    if not isinstance(numbers, Tensor) or not isinstance(rows, Tensor) or rows.dim() != 2:
        return False
    if rows.is_floating_point() or len(rows) != len(numbers) or numbers.min() < 1:
        return False
    padding = rows[torch.arange(rows.shape[1]) >= numbers.reshape(-1, 1)]
    return int(numbers.max()) == rows.shape[1] and bool((padding == padding[:1]).all())


def _is_no_target(column: BatchColumn, main: BatchColumn, columns: Sequence[BatchColumn]) -> bool:
    """Whether numbers are those of all samples in a row, as the letters for a CTC loss, or say how
    many of them each sample has.
    """
    if len(column) != len(main):
        return True
    if not isinstance(column.values, Tensor) or column.values.dim() != 1:
        return False
    total = int(column.values.sum())
    return total > len(main) and any(len(other) == total for other in columns)


def _has_equal(column: BatchColumn) -> bool:
    is_tensor = isinstance(column.values, Tensor)
    values = column.values.reshape(-1).tolist() if is_tensor else column.values
    return len(set(values)) < len(values)


def _last_name(path: str) -> str:
    """The last name in a path, in small letters; "" where it ends in a number."""
    found = re.findall(r"\['([^']+)'\]|\.(\w+)|\[(\d+)\]", path)
    return (found[-1][0] or found[-1][1]).lower() if found else ""


def _role(column: BatchColumn) -> str:
    value, name = column.first, _last_name(column.path)
    if isinstance(value, Tensor) and not _is_plain(value):
        return "other"
    if isinstance(value, bool | int) or (isinstance(value, Tensor) and value.dim() == 0):
        return _role_of_number(value, name)
    if isinstance(value, Tensor):
        return _role_of_tensor(column, value, name)
    if isinstance(value, float):
        return "value"
    return "text" if isinstance(value, str) else "other"


def _is_plain(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_complex() and not value.is_nested


def _role_of_number(value: Any, name: str) -> str:
    if re.search(r"(^|_)(id|idx|index|area|iscrowd|length|size|w|h|width|height|fps)s?$", name):
        return "other"
    whole = not isinstance(value, Tensor) or not value.dtype.is_floating_point
    return "class" if whole else "value"


def _role_of_tensor(column: BatchColumn, value: Tensor, name: str) -> str:
    if _BOXES.search(name) and value.shape[-1:] == (4,) and value.dim() <= 2:
        return "boxes"
    if type(value).__name__ == "BoundingBoxes":
        return "boxes"
    if _is_points(value, name):
        return "points"
    is_map = value.dim() >= 2 and min(value.shape[-2:]) >= LEAST_SIDE
    if is_map:
        return "mask" if type(value).__name__ == "Mask" or _MASKS.search(name) else "image"
    if value.dim() == 1 and isinstance(column.values, Tensor):
        return _role_of_vector(column.values)
    if value.dim() == 1 and not value.dtype.is_floating_point:
        return "classes" if re.search(r"label|class|categor", name) else "other"
    return "other"


def _is_points(value: Tensor, name: str) -> bool:
    """Key points: coordinates by name, or a list of pairs of floats."""
    if type(value).__name__ == "KeyPoints":
        return True
    listed = value.dim() in (2, 3) and value.shape[-1] in (2, 3)
    if _POINTS.search(name):
        return listed or (value.dim() == 1 and value.dtype.is_floating_point)
    pairs = value.dim() == 2 and value.shape[-1] == 2 and len(value) > 1
    return pairs and value.dtype.is_floating_point


def _role_of_vector(values: Tensor) -> str:
    """Vectors of zeros and ones name several classes."""
    if values.shape[1] > 1 and bool(((values == 0) | (values == 1)).all()):
        return "multilabel"
    if values.shape[1] == 1 and values.dtype.is_floating_point:
        return "value"
    return "value" if values.dtype.is_floating_point else "other"


def _is_mask(column: BatchColumn, main: BatchColumn) -> bool:
    value, image = column.first, main.first
    if not isinstance(value, Tensor) or not isinstance(image, Tensor):
        return False
    least = image.dim() - 1  # 2 of an image, 3 of a volume
    flat = value.dim() == least or (value.dim() == image.dim() and value.shape[0] == 1)
    same = value.shape[-least:] == image.shape[-least:]
    if least == 2:
        same = same or value.dtype is torch.int64
    if not (flat and same and least in (2, 3)) or min(value.shape[-2:]) < LEAST_SIDE:
        return False
    if not value.dtype.is_floating_point:
        return True
    levels = len(torch.unique(value))
    # a grey image of few levels beside another one is its other view, as of a pair or a triplet
    is_view = levels > 2 and same and len(torch.unique(image)) <= FEW_VALUES
    return levels <= FEW_VALUES and not is_view
