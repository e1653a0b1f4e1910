"""The statistics of one tensor as plain frozen data, and how two of them add up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import repeat
from operator import add, attrgetter
from typing import Any, Final

from cnnprobe.records.trace import Histogram

LOWEST = -127  # exponent of the bucket of everything below 2**-126, the smallest normal float32
_SUMMED = {"merge": "sum"}  # numbers of two tensors together are the sums of both
BUCKETS = 255  # a bucket for each exponent of float32: -127 to 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Statistics of each channel (dimension 1), as tuples of length C, over its finite values."""

    count: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    zeros: tuple[int, ...]
    nonfinite: tuple[int, ...]

    @property
    def zero_fraction(self) -> tuple[float, ...]:
        """Fraction of exact zeros in each channel, in [0, 1]; 0 for a channel without elements."""
        return tuple(z / n if n else 0.0 for z, n in zip(self.zeros, self.count, strict=True))

    @property
    def all_zero(self) -> tuple[bool, ...]:
        """Whether a channel has elements and all of them are zero."""
        return tuple(0 < n == z for z, n in zip(self.zeros, self.count, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a tensor holds: `mean`, `std` (population), `min`, `max` and `l2` are over its finite
    values.

    Where there is no finite value `mean`, `std`, `min` and `max` are NaN and `l2` is 0. Complex
    numbers count by their modulus, False and True as 0 and 1.
    """

    # The numbers stand in this order in each row of a Table; the C kernel is built with it.
    count: int = field(metadata=_SUMMED)  # all elements, NaN and Inf too
    mean: float
    std: float
    min: float
    max: float
    zeros: int = field(metadata=_SUMMED)
    nan: int = field(metadata=_SUMMED)
    inf: int = field(metadata=_SUMMED)  # of either sign
    l2: float
    histogram: Histogram | None = None
    channels: Channels | None = None

    def as_mapping(self) -> dict[str, float | int]:
        """The numbers by name, for `TensorInfo.stats`; histogram and channels are left out."""
        return dict(zip(COLUMNS, _read_numbers(self), strict=True))


_NUMBERS = [each for each in fields(Statistics) if each.type in {int, float}]
COLUMNS: Final = tuple(each.name for each in _NUMBERS)
"""The numbers of a row, in their order."""
SUMMED: Final = tuple(each.name for each in _NUMBERS if each.metadata == _SUMMED)
COUNT, MEAN, STD, MIN, MAX, ZEROS, NAN, INF, L2 = map(
    COLUMNS.index, ("count", "mean", "std", "min", "max", "zeros", "nan", "inf", "l2")
)
_read_numbers = attrgetter(*COLUMNS)
_WHOLE = [k for k, each in enumerate(_NUMBERS) if each.type is int]


def _draft_of(kind: type) -> Any:
    """The same slots without the frozen class's constructor, which takes four times as long."""
    return type(kind.__name__, (), {"__slots__": kind.__slots__})  # type: ignore[attr-defined]


_StatisticsDraft, _HistogramDraft = _draft_of(Statistics), _draft_of(Histogram)


def read_row(
    row: list[float],
    *,
    histogram: Histogram | None = None,
    channels: Channels | None = None,
) -> Statistics:
    """The numbers of a row, in the order of COLUMNS, as Statistics; whole ones become int there."""
    for k in _WHOLE:
        row[k] = int(row[k])
    draft = _StatisticsDraft()
    for _ in map(setattr, repeat(draft), COLUMNS, row):
        pass
    draft.histogram, draft.channels = histogram, channels
    draft.__class__ = Statistics
    return draft  # type: ignore[no-any-return]


def make_histogram(lowest: int, negative: Sequence[int], positive: Sequence[int]) -> Histogram:
    """A Histogram of lists of counts."""
    draft = _HistogramDraft()
    draft.lowest, draft.negative, draft.positive = lowest, tuple(negative), tuple(positive)
    draft.__class__ = Histogram
    return draft  # type: ignore[no-any-return]


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of both tensors together, as if they had been one.

    The histogram is kept where both have one, the channels where both have the same number of them.

    Source: Chan, Golub, LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances".

    >>> import torch
    >>> from cnnprobe.stats import summarise
    >>> left, right = summarise(torch.tensor([1.0, 2.0])), summarise(torch.tensor([3.0, 6.0]))
    >>> both = merge(left, right)
    >>> both.count, both.mean, both.max
    (4, 3.0, 6.0)
    """
    mean, std = _merge_moments((_count_finite(a), a.mean, a.std), (_count_finite(b), b.mean, b.std))
    low, high = _pick_least(a.min, b.min), -_pick_least(-a.max, -b.max)
    # exact, where the weighted mean of equal numbers may be off by its last bit
    constant = low == high
    sums: dict[str, Any] = {name: getattr(a, name) + getattr(b, name) for name in SUMMED}
    return Statistics(
        **sums,
        mean=low if constant else mean,
        std=0.0 if constant else std,
        min=low,
        max=high,
        l2=math.hypot(a.l2, b.l2),
        histogram=merge_histograms(a.histogram, b.histogram),
        channels=_merge_channels(a.channels, b.channels),
    )


def _count_finite(s: Statistics) -> int:
    return s.count - s.nan - s.inf


def _pick_least(a: float, b: float) -> float:
    """The smaller one; NaN stands for "none"."""
    return b if math.isnan(a) or b < a else a


def _merge_moments(a: tuple[int, float, float], b: tuple[int, float, float]) -> tuple[float, float]:
    (n, mean_a, std_a), (m, mean_b, std_b) = a, b
    if n == 0 or m == 0:
        return (mean_b, std_b) if n == 0 else (mean_a, std_a)
    p, q = n / (n + m), m / (n + m)
    # hypot and the root before the difference: numbers of 1e300 have a std, and no square of them.
    root = math.sqrt(p * q)
    return p * mean_a + q * mean_b, math.hypot(
        math.sqrt(p) * std_a, math.sqrt(q) * std_b, root * mean_b - root * mean_a
    )


def merge_histograms(a: Histogram | None, b: Histogram | None) -> Histogram | None:
    """The counts of both; None where one has none."""
    if a is None or b is None:
        return None
    full_a, full_b = _unfold(a), _unfold(b)
    return fold(*(list(map(add, x, y)) for x, y in zip(full_a, full_b, strict=True)))


def _unfold(histogram: Histogram) -> tuple[list[int], list[int]]:
    before = [0] * (histogram.lowest - LOWEST)
    after = [0] * (BUCKETS - len(before) - len(histogram.negative))
    return [*before, *histogram.negative, *after], [*before, *histogram.positive, *after]


def fold(negative: list[int], positive: list[int]) -> Histogram:
    """A Histogram of the counts of all exponents from -127 to 127, without the empty ends."""
    filled = [k for k in range(BUCKETS) if negative[k] or positive[k]]
    if not filled:
        return Histogram()
    start, stop = filled[0], filled[-1] + 1
    return Histogram(
        lowest=LOWEST + start,
        negative=tuple(negative[start:stop]),
        positive=tuple(positive[start:stop]),
    )


def _merge_channels(a: Channels | None, b: Channels | None) -> Channels | None:
    if a is None or b is None or len(a.count) != len(b.count):
        return None
    left, right = (
        list(
            zip(
                (n - k for n, k in zip(c.count, c.nonfinite, strict=True)),
                c.mean,
                c.std,
                strict=True,
            )
        )
        for c in (a, b)
    )
    moments = [_merge_moments(x, y) for x, y in zip(left, right, strict=True)]
    return Channels(
        count=tuple(map(add, a.count, b.count)),
        mean=tuple(mean for mean, _ in moments),
        std=tuple(std for _, std in moments),
        zeros=tuple(map(add, a.zeros, b.zeros)),
        nonfinite=tuple(map(add, a.nonfinite, b.nonfinite)),
    )
