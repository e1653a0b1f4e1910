"""What is kept of the batches that were read: counts and moments of each part, in memory that does
not grow with their number.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cnnprobe.data.columns import Column
from cnnprobe.data.facts import Channel, Numbers, Part
from cnnprobe.stats import Statistics, merge, summarise

VALUES = 512  # distinct values of a part that are counted
SHAPES = 64  # distinct shapes that are counted
LOOKED_AT = 65536  # values of a batch that are looked at one by one
CHANNELS = 16  # more than that are not the colours of an image
Bounds = tuple[Tensor, Tensor]
_COUNTED = ("class", "classes", "multilabel", "mask")
_MEASURED = (*_COUNTED, "image", "value", "boxes")


def bound_channels(batch: Tensor) -> Bounds:
    """The least and the greatest value of each channel of each image, both (N, C); NaN where it has
    one.
    """
    flat = batch.detach().flatten(2) if batch.dim() > 2 else batch.detach()[:, :, None]
    # Two passes: torch.aminmax over a dim takes three times as long.
    return flat.amin(2), flat.amax(2)


class PartTally:
    """Counts of types, shapes and values, and the moments of the numbers, of one part of the
    batches.
    """

    def __init__(self, path: str, role: str) -> None:
        self.path, self.role = path, role
        self._dtypes: Counter[str] = Counter()
        self._shapes: Counter[tuple[int, ...]] = Counter()
        self._values: Counter[float] = Counter()
        self._whole = True
        self._statistics: Statistics | None = None
        self._bounds: list[tuple[float, float]] | None = None
        self.channels_last = False
        self.same_as = ""

    def add(self, column: Column, bounds: Bounds | None = None) -> None:
        """Take in the column of a batch; `bounds` are those of its images, where they are known."""
        if isinstance(column.values, Tensor):
            batch = column.values.detach()
            self._dtypes[_name(batch)] += len(batch)
            self._shapes[tuple(batch.shape[1:])] += len(batch)
            self._measure(batch, bounds)
            return
        for value in column.values:
            if isinstance(value, Tensor):
                self._dtypes[_name(value)] += 1
                self._count_shape(tuple(value.shape))
                self._measure(value.detach()[None])
            else:
                self._dtypes[type(value).__name__] += 1
        numbers = [v for v in column.values if isinstance(v, bool | int | float)]
        if numbers:
            self._measure(torch.tensor(numbers, dtype=torch.float64))

    def _count_shape(self, shape: tuple[int, ...]) -> None:
        if shape in self._shapes or len(self._shapes) < SHAPES:
            self._shapes[shape] += 1

    def _measure(self, batch: Tensor, bounds: Bounds | None = None) -> None:
        if self.role not in _MEASURED or not batch.numel() or batch.is_complex():
            return
        is_image = self.role == "image" and batch.dim() >= 4 and batch.shape[1] <= CHANNELS
        found = summarise(batch, channels=is_image)
        if found is not None:
            self._statistics = found if self._statistics is None else merge(self._statistics, found)
        looked = take_some(batch)
        if looked.dtype.is_floating_point:
            self._whole = self._whole and bool((looked == looked.round()).all())
        if is_image:
            self._bound(bounds if bounds is not None else bound_channels(batch))
        if self.role in _COUNTED:
            self._count(looked)

    def _bound(self, given: Bounds) -> None:
        low, high = given
        bounds = list(zip(low.amin(0).tolist(), high.amax(0).tolist(), strict=True))
        if self._bounds is not None and len(self._bounds) == len(bounds):
            bounds = [
                (min(a, c), max(b, d)) for (a, b), (c, d) in zip(self._bounds, bounds, strict=True)
            ]
        self._bounds = bounds

    def _count(self, looked: Tensor) -> None:
        found, counts = torch.unique(looked, return_counts=True)
        for value, count in zip(found.tolist(), counts.tolist(), strict=True):
            if value in self._values or len(self._values) < VALUES:
                self._values[value] += count

    def describe(self) -> Part:
        """The part as plain data."""
        return Part(
            path=self.path,
            role=self.role,
            dtypes=tuple(self._dtypes.most_common()),
            shapes=tuple(self._shapes.most_common()),
            numbers=_describe(self._statistics),
            channels=tuple(self._channels()),
            values=tuple(sorted(self._values.items())),
            whole=self._whole and self._statistics is not None,
            channels_last=self.channels_last,
            same_as=self.same_as,
        )

    def _channels(self) -> Iterable[Channel]:
        found = self._statistics.channels if self._statistics is not None else None
        if found is None or self._bounds is None or len(self._bounds) != len(found.mean):
            return
        for mean, std, (low, high) in zip(found.mean, found.std, self._bounds, strict=True):
            yield Channel(mean=mean, std=std, low=low, high=high)


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _describe(found: Statistics | None) -> Numbers | None:
    if found is None:
        return None
    return Numbers(
        count=found.count, mean=found.mean, std=found.std, low=found.min, high=found.max,
        zeros=found.zeros, nan=found.nan, inf=found.inf,
    )  # fmt: skip


def take_some(batch: Tensor) -> Tensor:
    """At most LOOKED_AT values of a batch, evenly from all, without NaN and Inf."""
    flat = batch.reshape(-1)
    step = max(1, math.ceil(len(flat) / LOOKED_AT))
    # An odd step, so that not the same columns of each row are seen.
    looked = flat[:: step | 1] if step > 1 else flat
    return looked[looked.isfinite()] if looked.dtype.is_floating_point else looked


def number_of(value: Any) -> int | None:
    """A class label as a number; None where it is none."""
    if isinstance(value, Tensor):
        return int(value) if value.numel() == 1 and not value.dtype.is_floating_point else None
    return int(value) if isinstance(value, int) else None
