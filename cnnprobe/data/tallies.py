"""What is kept of the batches that were read: counts and moments of each part, in memory that does
not grow with their number.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from cnnprobe.data.columns import BatchColumn
from cnnprobe.data.facts import Channel, Numbers, Part
from cnnprobe.stats import Statistics, merge, summarise

VALUES = 512  # distinct values of a part that are counted
SHAPES = 64  # distinct shapes that are counted
LOOKED_AT = 65536  # values of a batch that are looked at one by one
NUMBERS = 4096  # distinct numbers to be predicted that are counted
FAR = 3.0  # times the range of all other numbers: an extreme one that stands alone is a mark
OFTEN = 2  # times, at least
AT_ONCE = 2**22  # whole numbers that are copied as floats at a time
CHANNELS = 16  # more than that are not the colours of an image
_COUNTED = ("class", "classes", "multilabel", "mask")
_MEASURED = (*_COUNTED, "image", "value", "boxes", "points")


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
        self.channels_last = False
        self.same_as = ""
        self._numbers: Counter[float] = Counter()  # of a part to be predicted

    def add(self, column: BatchColumn) -> bool:
        """Take in the column of a batch; whether it holds no NaN and no Inf."""
        before = self._count_nonfinite()
        self._add(column)
        return before == self._count_nonfinite()

    def _count_nonfinite(self) -> int:
        return self._statistics.nan + self._statistics.inf if self._statistics is not None else 0

    def _add(self, column: BatchColumn) -> None:
        if isinstance(column.values, Tensor):
            batch = column.values.detach()
            self._dtypes[_name(batch)] += len(batch)
            self._shapes[tuple(batch.shape[1:])] += len(batch)
            self._measure(batch)
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

    def _measure(self, batch: Tensor) -> None:
        if self.role not in _MEASURED or not batch.numel() or batch.is_complex():
            return
        is_image = self.role == "image" and batch.dim() >= 4 and batch.shape[1] <= CHANNELS
        for some in list_floats(batch):
            found = summarise(some, channels=is_image)
            if found is not None:
                held = self._statistics
                self._statistics = found if held is None else merge(held, found)
        if self.role == "value" and len(self._numbers) < NUMBERS:
            self._numbers.update(take_some(batch)[:NUMBERS].tolist())
        is_counted = self.role in _COUNTED
        if not is_counted and not (self._whole and batch.dtype.is_floating_point):
            return
        looked = take_some(batch)
        if looked.dtype.is_floating_point:
            self._whole = self._whole and bool((looked == looked.round()).all())
        if is_counted:
            self._count(looked)

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
            mark=find_mark(self._numbers),
        )

    def _channels(self) -> Iterable[Channel]:
        found = self._statistics.channels if self._statistics is not None else None
        if found is not None:
            for mean, std in zip(found.mean, found.std, strict=True):
                yield Channel(mean=mean, std=std)


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _describe(found: Statistics | None) -> Numbers | None:
    if found is None:
        return None
    return Numbers(
        count=found.count, mean=found.mean, std=found.std, low=found.min, high=found.max,
        zeros=found.zeros, nan=found.nan, inf=found.inf,
    )  # fmt: skip


def find_mark(counts: Counter[float]) -> tuple[float, int] | None:
    """A value that stands far from all others and is there several times, as -999 for a missing
    one; None where there is none.

    >>> find_mark(Counter({-999.0: 3, 1.5: 1, 2.5: 1, 4.0: 1, 7.0: 2}))
    (-999.0, 3)
    """
    values = sorted(counts)
    if len(values) < 4:
        return None
    for extreme, rest in ((values[0], values[1:]), (values[-1], values[:-1])):
        gap = min(abs(extreme - rest[0]), abs(extreme - rest[-1]))
        if counts[extreme] >= OFTEN and gap > FAR * (rest[-1] - rest[0]):
            return extreme, counts[extreme]
    return None


def list_floats(batch: Tensor) -> Iterator[Tensor]:
    """The samples of a batch in floats, which the kernel of the statistics reads ten to a hundred
    times as fast as whole numbers; a bounded number of them at a time.
    """
    if batch.dtype.is_floating_point:
        yield batch
        return
    dtype = torch.float32 if batch.element_size() == 1 else torch.float64
    rows = max(1, AT_ONCE * len(batch) // batch.numel())
    for start in range(0, len(batch), rows):
        yield batch[start : start + rows].to(dtype)


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
