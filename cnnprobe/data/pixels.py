"""How the values lie in single images: read in another order than they were written, wrapped around
at the end of a byte, with the channels in the order blue, green, red.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from cnnprobe.data.image_facts import Colours, Pixels, Range
from cnnprobe.data.spots import Spotted

LOOKED_AT = 16  # images whose pixels are compared with their neighbours
PER_BATCH = 2  # of them
SPARED = 5  # one image in so many may be noise, which has no order
NOISE = 0.8  # the factor of noise is at least so large, that of a picture in order smaller
LEAST_SIDE = 8  # pixels
FRAMES = 11  # of a clip, from which on the order of strings is another one
COLOURED = 1024  # images whose channels are compared
NAMED = 8
WINDOW = 128  # pixels a side, of which values that wrap around are looked for
FILES = 8  # that are opened to see the order of the channels
FEWEST_FILES = 6  # below which nothing is said
CLASSES = 256  # whose ranges are kept, each of PER_CLASS images
PER_CLASS = 32

# A wrapped image: of the steps between neighbours, in levels of its 256,
JUMP = 192.0  # is one from white to black, or back
JUMPS = 0.01  # of all steps; along the edges of photographs it is a few per thousand
SHORTER = 0.7  # their mean the short way round over their mean; a ramp gives 1/2, noise 3/4
STEP = 40.0  # their mean the short way round; that of noise is 64
ENDS = 8.0  # levels from an end: drawings and scanned text have most of their pixels there
MIDDLE = 0.02  # of the pixels are in the middle quarter; with a bright object on dark ground none
FLAT = 3  # equal values in a row: no slope that wraps around once in a hundred steps has them
DOUBLED = 0.4  # of the steps are 0 where each pixel was repeated; every such edge is a steep one
AT_ENDS = 0.2  # of the pixels; of values that wrap around it is 16 in 256

Normalisations = Sequence[tuple[tuple[float, ...], tuple[float, ...]]]


class PixelTally:
    """What a few images of each batch show of how their values lie."""

    def __init__(self) -> None:
        self._factors: dict[str, list[float]] = {}
        self._looked_at = 0
        self._wrapped: list[Spotted] = []
        self._wraps = 0
        self._means: list[tuple[NDArray[np.float32], Spotted]] = []
        self._ranges: dict[int, list[tuple[float, float]]] = {}
        self._peaks: Counter[int] = Counter()
        self._jumps: list[float] = []

    def add(self, batch: Tensor, spots: Sequence[Spotted]) -> None:
        """Look at the first images of a batch, shape (N, C, H, W); others are passed over."""
        if batch.dim() != 4 or min(batch.shape[-2:]) < LEAST_SIDE or batch.shape[1] > 4:
            return
        some = batch[: min(PER_BATCH, LOOKED_AT - self._looked_at)].detach().float()
        if not len(some) or not bool(some.isfinite().all()):
            return
        self._looked_at += len(some)
        for name, factors in compare_orders(some).items():
            self._factors.setdefault(name, []).extend(factors)
        for spot, wrapped in zip(spots, find_wrapped(some[..., :WINDOW, :WINDOW]), strict=False):
            self._wraps += wrapped
            if wrapped and len(self._wrapped) < NAMED:
                self._wrapped.append(spot)

    def add_means(self, means: NDArray[np.float32], spots: Sequence[Spotted]) -> None:
        """Take in the mean of each channel of each image, shape (N, 3)."""
        room = COLOURED - len(self._means)
        if means.shape[1:] == (3,):
            self._means += list(zip(means[:room], spots[:room], strict=False))

    def add_range(self, label: int | None, low: float, high: float) -> None:
        """Take in the bounds of an image of a class."""
        if label is None or (label not in self._ranges and len(self._ranges) >= CLASSES):
            return
        held = self._ranges.setdefault(label, [])
        if len(held) < PER_CLASS:
            held.append((low, high))

    def add_clips(self, batch: Tensor) -> None:
        """Look at the first clips of a batch, (N, T, C, H, W) or (N, C, T, H, W)."""
        for clip in batch[: min(PER_BATCH, LOOKED_AT - len(self._jumps))].detach().float():
            frames = clip if clip.shape[1] <= 4 < clip.shape[0] else clip.transpose(0, 1)
            if len(frames) >= FRAMES:
                self._jumps.append(compare_frames(frames[..., ::2, ::2].flatten(1)))

    def add_peak(self, low: float, high: float) -> None:
        """Take in the bounds of an image that has more than one colour."""
        self._peaks[math.frexp(max(abs(low), abs(high)))[1] - 1] += 1

    def describe(self, steps: Normalisations = ()) -> Pixels:
        """What was met, as plain data; `steps` are the known normalisations of the images."""
        medians = {name: float(np.median(each)) for name, each in self._factors.items()}
        smoothest = max(medians, key=lambda name: medians[name], default="")
        # What holds for most images alone is their motif, not the order of their values.
        ranked = sorted(self._factors.get(smoothest, [0.0]))
        is_of_all = ranked[len(ranked) // SPARED] > 1 and ranked[0] > NOISE
        found = smoothest if is_of_all and len(ranked) > 1 else ""
        return Pixels(
            images=self._looked_at,
            rearranged=found,
            smoother=medians[found] if found else 1.0,
            wrapped=tuple(self._wrapped),
            wraps=self._wraps,
            colours=self._describe_colours(steps),
            peaks=tuple(sorted(self._peaks.items())),
            clips=len(self._jumps),
            jumps=(min(self._jumps), float(np.median(self._jumps))) if self._jumps else (0.0, 0.0),
        )

    def _describe_colours(self, steps: Normalisations) -> Colours:
        if not self._means:
            return Colours()
        means = np.stack([mean for mean, _ in self._means]).astype(np.float64)
        if len(steps) == 1:
            means = means * np.asarray(steps[0][1]) + np.asarray(steps[0][0])
        apart = means[:, 0] - means[:, 2]
        return Colours(
            images=len(means),
            mean=tuple(means.mean(0).tolist()),
            difference=float(apart.mean()),
            error=float(apart.std() / math.sqrt(len(apart))),
            by_file=_compare_files([(a, s) for a, (_, s) in zip(apart, self._means, strict=True)]),
        )

    def list_ranges(self) -> tuple[Range, ...]:
        """The range of each class, by label."""
        return tuple(
            Range(
                label=label,
                images=len(held),
                low=float(np.median([low for low, _ in held])),
                high=float(np.median([high for _, high in held])),
            )
            for label, held in sorted(self._ranges.items())
        )


# ---------------------------------------------------------------- the order of the values


def _list_orders(shape: Sequence[int]) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """The orders in which the values of images of a shape may have been written."""
    n, channels, high, wide = shape
    if channels > 1:
        yield (
            f"reshape({channels}, {high}, {wide}) of (H, W, C) pixels",
            lambda x: x.reshape(n, high, wide, channels).permute(0, 3, 1, 2),
        )
        yield (
            _describe_planes(shape),
            lambda x: x.permute(0, 2, 3, 1).reshape(n, channels, high, wide),
        )
    if high != wide:
        yield (
            f"reshape({high}, {wide}) of pixels of {wide} rows and {high} columns",
            lambda x: x.reshape(n, channels, wide, high),
        )


def _describe_planes(shape: Sequence[int]) -> str:
    _, channels, high, wide = shape
    return f"reshape({high}, {wide}, {channels}) of (C, H, W) pixels"


def compare_orders(images: Tensor) -> Mapping[str, list[float]]:
    """By what factor each image is smoother when its values are read in another order.

    Args:
        images: shape (N, C, H, W), floating.

    Neighbours in a picture are alike; where its values are read in another order than they were
    written, they are not.

    >>> x = torch.arange(16.0).repeat(16, 1) + torch.arange(16.0)[:, None]
    >>> scrambled = torch.stack([x, 9 + x, x], dim=-1).reshape(1, 3, 16, 16)
    >>> [round(factors[0], 1) for factors in compare_orders(scrambled).values()]
    [79.1, 0.2]
    """
    before = measure_roughness(images)
    found = {}
    for name, reorder in _list_orders(images.shape):
        after = measure_roughness(reorder(images))
        factor = before / after.clamp(min=1e-12)
        if name == _describe_planes(images.shape):
            factor = torch.minimum(factor, _compare_seams(images))
        found[name] = factor.tolist()
    return found


def _compare_seams(images: Tensor) -> Tensor:
    """By what factor, shape (N,), the step from the last channel of a pixel to the first one of the
    next is smaller than those within the channels. Of one plane in three strings the former are
    neighbours; of a grey image in its own order both are alike, however smooth its equal channels
    are one after the other.
    """
    within = images.diff(dim=-1).square().mean((1, 2, 3))
    seams = (images[:, 0, :, 1:] - images[:, -1, :, :-1]).square().mean((1, 2))
    return within / seams.clamp(min=1e-12)


def compare_frames(frames: Tensor) -> float:
    """By what factor the frames, shape (T, F), change more at the jumps that the order of their
    numbers as strings makes (1, 10, 11, 2) than between the numbers that it takes apart; from 0 or
    from 1.

    >>> compare_frames(torch.tensor([[0.0], [1], [10], [11], [2], [3], [4], [5], [6], [7], [8], [9]])) > 2
    True
    """  # noqa: E501
    given = set(pairwise(range(len(frames))))
    found = []
    for first in (0, 1):
        order = np.argsort(sorted(range(first, first + len(frames)), key=str)).tolist()
        numbered = {(min(pair), max(pair)) for pair in pairwise(order)}
        jumps, kept = (
            _measure_change(frames, each) for each in (given - numbered, numbered - given)
        )
        found.append(jumps / max(kept, 1e-12))
    return max(found)


def _measure_change(frames: Tensor, pairs: Collection[tuple[int, int]]) -> float:
    """The mean difference of pairs of frames; 0 where there is none."""
    first, second = (list(each) for each in zip(*pairs, strict=True)) if pairs else ([], [])
    return float((frames[first] - frames[second]).abs().mean()) if pairs else 0.0


def measure_roughness(images: Tensor) -> Tensor:
    """The mean square of the steps between neighbours, of each image; shape (N,)."""
    down, right = images.diff(dim=-2), images.diff(dim=-1)
    return down.square().mean((1, 2, 3)) + right.square().mean((1, 2, 3))


# ---------------------------------------------------------------- values that wrap around


def find_wrapped(images: Tensor) -> list[bool]:
    """Whether the values of each image jump from the greatest to the least and go on from there, as
    numbers above 255 do that are cast to a byte.

    Args:
        images: shape (N, C, H, W), floating.
    """
    low = images.amin((1, 2, 3), keepdim=True)
    levels = (images - low) / (images.amax((1, 2, 3), keepdim=True) - low).clamp(min=1e-12) * 255
    steps = levels.diff(dim=-1).abs().flatten(1)
    jumps = steps > JUMP
    if not bool((jumps.float().mean(1) > JUMPS).any()):
        return [False] * len(images)  # nearly all: the rest costs ten times as much
    shorter = torch.minimum(steps, 256 - steps)
    goes_on = ~_find_flat(images).flatten(1)
    at_ends = ((levels < ENDS) | (levels > 255 - ENDS)).float().flatten(1).mean(1)
    found = ((jumps & goes_on).float().mean(1) > JUMPS) & (at_ends < AT_ENDS)
    found &= (steps == 0).float().mean(1) < DOUBLED
    found &= ((levels - 128).abs() < 32).float().flatten(1).mean(1) > MIDDLE
    found &= shorter.mean(1) < torch.minimum(SHORTER * steps.mean(1), torch.tensor(STEP))
    return [bool(each) for each in found.tolist()]


def _find_flat(images: Tensor) -> Tensor:
    """Whether a step to the right, shape (N, C, H, W - 1), leads into a run of FLAT equal values or
    more, or out of one: the padding of a crop, the corners of a rotation, what was erased. An image
    is taken to go on beyond its border as it ends there.
    """
    equal = pad(images.diff(dim=-1) == 0, (FLAT - 1, FLAT - 1), value=True)
    runs = equal.unfold(-1, FLAT - 1, 1).all(-1)
    return runs[..., :-FLAT] | runs[..., FLAT:]


# ---------------------------------------------------------------- the order of the channels


def _compare_files(apart: Sequence[tuple[float, Spotted]]) -> float | None:
    """Pearson's r of red less blue in the files with the first channel less the last in the
    images.
    """
    pairs: list[tuple[float, float]] = []
    for given, spot in apart:
        if spot.name and len(pairs) < FILES and (read := read_colour(spot.name)) is not None:
            pairs.append((given, read))
    if len(pairs) < FEWEST_FILES:
        return None
    ours, theirs = np.array(pairs).T
    if min(ours.std(), theirs.std()) < 1e-6:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])


def read_colour(path: str) -> float | None:
    """Red less blue, of an image file on average, in [-1, 1]; None where Pillow reads none."""
    picture = open_picture(path, (64, 64))
    if picture is None or picture.mode not in ("RGB", "P", "RGBA"):
        return None
    mean = np.asarray(picture.convert("RGB"), dtype=np.float32).mean((0, 1)) / 255
    return float(mean[0] - mean[2])


def open_picture(path: str, size: tuple[int, int] | None = None, *, whole: bool = True) -> Any:
    """An image file, opened by Pillow and read, a JPEG at about `size`; None where that fails.
    Where it is not read as a whole, its size is that of the file.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if size is not None and whole:
                picture.draft("RGB", size)
            if whole:
                picture.load()
            return picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
