"""Images beside the pictures that they were made of, in files or in the arrays of a data set: an
orientation that was not applied, the numbers of a palette taken for brightness, values cut off at
an end of the range.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnprobe.data.clues import Beside, Repeats
from cnnprobe.data.copies import SIDE
from cnnprobe.data.datasets import find_root
from cnnprobe.data.pixels import open_picture
from cnnprobe.data.source import Source
from cnnprobe.data.spots import SamePicture

OPENED = 32  # files whose headers are read
READ = 8  # pictures that are read of each kind
ORIENTATION = 0x0112  # of EXIF; 1 is upright
APART = 0.1  # of two correlations: which picture an image shows
ORDERED = 0.98  # correlation of numbers and brightness: a palette in order
FULL = 0.3  # of the values at one end: more than the sky of a photo
BETWEEN = 0.1  # of the values inside: an image of two values was meant so
_ARRAYS = ("data", "images", "imgs", "x", "X")


@dataclass(frozen=True, slots=True)
class Seen:
    """An image as it was read."""

    name: str  # of its file
    index: int | None
    sketch: NDArray[np.float32]  # (SIDE * SIDE,)
    top: float  # share of its values that are the greatest one of their channel
    bottom: float


def compare_sources(seen: Sequence[Seen], source: Source) -> Beside:
    """What a few images show beside the pictures that they were made of."""
    named = [each for each in seen if each.name]
    chosen = [named[i * len(named) // OPENED] for i in range(min(OPENED, len(named)))]
    chosen = chosen if len(named) > OPENED else named
    opened = [(each, open_picture(each.name, whole=False)) for each in chosen]
    known = [(each, picture) for each, picture in opened if picture is not None]
    turned = [each for each, picture in known if _is_turned(picture)][:READ]
    palettes = [each for each, picture in known if picture.mode == "P"][:READ]
    stored = [fits for each in turned if (fits := _is_as_stored(each)) is not None]
    indexed = [fits for each in palettes if (fits := _is_of_indices(each)) is not None]
    clipped, share, before = _compare_ends(seen, source)
    return Beside(
        turned=len(stored), unturned=sum(stored), palettes=len(indexed), indices=sum(indexed),
        clipped=clipped, share=share, before=before,
        example=next((each.name for each in (*turned, *palettes)), ""),
    )  # fmt: skip


def _is_turned(picture: Any) -> bool:
    # The EXIF of a JPEG stands before its pixels; that of a PNG is read with these.
    return "exif" in picture.info and picture.getexif().get(ORIENTATION, 1) not in (0, 1)


def _is_as_stored(seen: Seen) -> bool | None:
    """Whether an image is its file without the orientation; None where that cannot be told."""
    from PIL import ImageOps

    picture = open_picture(seen.name, (4 * SIDE, 4 * SIDE))
    if picture is None:
        return None
    stored = _correlate(seen.sketch, picture.convert("L"))
    upright = _correlate(seen.sketch, ImageOps.exif_transpose(picture).convert("L"))
    return None if abs(stored - upright) < APART else stored > upright


def _is_of_indices(seen: Seen) -> bool | None:
    """Whether an image is made of the numbers of the colours in a palette; None where these are in
    the order of brightness.
    """
    from PIL import Image

    picture = open_picture(seen.name)
    if picture is None:
        return None
    indices, grey = Image.fromarray(np.asarray(picture)), picture.convert("L")
    a, b = (np.asarray(each, dtype=np.float64).reshape(-1) for each in (indices, grey))
    if min(a.std(), b.std()) == 0 or abs(float(np.corrcoef(a, b)[0, 1])) > ORDERED:
        return None
    ours, theirs = _correlate(seen.sketch, indices), _correlate(seen.sketch, grey)
    return None if abs(ours - theirs) < APART else ours > theirs


def _correlate(sketch: NDArray[np.float32], picture: Any) -> float:
    """The correlation of an image with a picture, or with its mirror image."""
    from PIL import Image

    small = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    rows = np.asarray(small, dtype=np.float64)
    return max(_measure(sketch, rows), _measure(sketch, rows[:, ::-1]))


def _measure(sketch: NDArray[np.float32], rows: NDArray[np.float64]) -> float:
    a, b = sketch - sketch.mean(), rows.reshape(-1) - rows.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


# ---------------------------------------------------------------- values that are cut off


def _compare_ends(seen: Sequence[Seen], source: Source) -> tuple[int, float, float]:
    """Images that were compared, their share of values at the upper end, and the greater share at
    an end of the pictures before; medians.
    """
    full = [each for each in seen if each.top > FULL and each.top + each.bottom < 1 - BETWEEN]
    if len(full) < len(seen) / 2:
        return 0, 0.0, 0.0
    pairs: list[tuple[float, float]] = []
    for each in full[: 2 * READ]:
        raw = _read_raw(each, source)
        if raw is not None and len(pairs) < READ:
            pairs.append((each.top, measure_ends(raw)))
    if not pairs:
        return 0, 0.0, 0.0
    ours, theirs = (float(np.median(column)) for column in zip(*pairs, strict=True))
    return len(pairs), ours, theirs


def measure_ends(picture: NDArray[Any]) -> float:
    """The share of the values of a picture, (H, W) or (H, W, C), at the end where more are.

    >>> measure_ends(np.array([[0, 9, 9, 9]]))
    0.75
    """
    flat = picture.reshape(-1, picture.shape[-1] if picture.ndim == 3 else 1)
    top, bottom = (flat == flat.max(0)).mean(), (flat == flat.min(0)).mean()
    return float(max(top, bottom))


def _read_raw(seen: Seen, source: Source) -> NDArray[Any] | None:
    picture = open_picture(seen.name) if seen.name else None
    if picture is not None and picture.mode in ("L", "RGB"):
        return np.asarray(picture)
    return None if seen.index is None else next(_list_arrays(source.dataset, seen.index), None)


def _list_arrays(dataset: Any, index: int) -> Iterator[NDArray[Any]]:
    """The bytes that a data set keeps of a sample, as CIFAR does."""
    root, at = find_root(dataset, index)
    for name in _ARRAYS:
        held: Any = getattr(root, name, None)
        if hasattr(held, "__getitem__") and hasattr(held, "__len__") and at < len(held):
            item = held[at]
            array = np.asarray(item) if hasattr(item, "__array__") else None
            if array is not None and array.dtype == np.uint8 and array.ndim in (2, 3):
                channels_first = array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] > 4
                yield np.moveaxis(array, 0, -1) if channels_first else array


def add_replaced(repeats: Repeats, pairs: Sequence[SamePicture]) -> Repeats:
    """With what the files of equal images tell."""
    replaced, unreadable = find_replaced(pairs)
    return replace(repeats, replaced=replaced, unreadable=unreadable)


def find_replaced(pairs: Sequence[SamePicture]) -> tuple[tuple[int, ...], str]:
    """The places of the pairs of equal images whose two files show other pictures, or of which one
    cannot be read; and the first such file.
    """
    found, unreadable = [], ""
    for place, pair in enumerate(pairs):
        names = pair.first.name, pair.second.name
        if not pair.exact or not all(names) or names[0] == names[1]:
            continue
        pictures = [open_picture(name) for name in names]
        broken = [name for name, picture in zip(names, pictures, strict=True) if picture is None]
        if len(broken) == 1 or (not broken and _differ(*pictures)):
            found.append(place)
            unreadable = unreadable or "".join(broken)
    return tuple(found), unreadable


def _differ(one: Any, other: Any) -> bool:
    """Whether two pictures have other pixels."""
    if one.size != other.size:
        return True
    return not np.array_equal(np.asarray(one.convert("RGBA")), np.asarray(other.convert("RGBA")))
