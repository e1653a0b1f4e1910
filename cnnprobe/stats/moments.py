"""Moments of the parts of a tensor, wherever they were measured, and how they become a row of
statistics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from cnnprobe.records.statistics import COLUMNS

PARTS = ("count", "finite", "mean", "m2", "squares", "low", "high", "zeros", "nan")
_ADDED = ("count", "finite", "m2", "squares", "zeros", "nan")
INF = float("inf")
NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Count, mean, sum of squared deviations and the rest, each of any shape (...)."""

    count: Tensor
    finite: Tensor
    mean: Tensor
    m2: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor
    zeros: Tensor
    nan: Tensor


def merge_parts(columns: Sequence[Tensor]) -> Moments:
    """Chan's formula over the first dimension of the PARTS, each of shape (parts, ...)."""
    count, finite, mean, m2, squares, low, high, zeros, nan = columns
    n = finite.sum(0)
    whole = (finite * mean).sum(0) / n.clamp(min=1)
    return Moments(
        count=count.sum(0),
        finite=n,
        mean=whole,
        m2=m2.sum(0) + (finite * (mean - whole).square()).sum(0),
        squares=squares.sum(0),
        low=low.amin(0),
        high=high.amax(0),
        zeros=zeros.sum(0),
        nan=nan.sum(0),
    )


def compute_mean_and_std(moments: Moments, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and population std, times `scale`; NaN where nothing is finite."""
    mean, std = moments.mean, (moments.m2 / moments.finite.clamp(min=1)).sqrt()
    if scale is not None:
        mean, std = mean * scale, std * scale
    constant, some = moments.low == moments.high, moments.finite > 0
    mean = torch.where(constant, moments.low, mean)
    # Population std: a single element gives 0; the unbiased one divides by zero and gives NaN.
    std = torch.where(constant, 0.0, std)
    return torch.where(some, mean, NAN), torch.where(some, std, NAN)


def make_row(moments: Moments, scale: Tensor | None = None) -> Tensor:
    """The numbers of `statistics.COLUMNS` along a new last dimension."""
    mean, std = compute_mean_and_std(moments, scale)
    some = moments.finite > 0
    low, high = (torch.where(some, bound, NAN) for bound in (moments.low, moments.high))
    numbers = {
        "count": moments.count,
        "mean": mean,
        "std": std,
        "min": low,
        "max": high,
        "zeros": moments.zeros,
        "nan": moments.nan,
        "inf": moments.count - moments.finite - moments.nan,
        "l2": moments.squares.sqrt() if scale is None else moments.squares.sqrt() * scale,
    }
    return torch.stack([numbers[name] for name in COLUMNS], dim=-1)


def repeat(moments: Moments, times: int) -> Moments:
    """The moments of the same values `times` times over."""
    counted = {name: getattr(moments, name) * times for name in _ADDED}
    return replace(moments, **counted)


def add_zeros(moments: Moments, zeros: int) -> Moments:
    """The moments of the same values and `zeros` more zeros."""
    none = torch.zeros_like(moments.count)
    more = dict.fromkeys(PARTS, none) | dict.fromkeys(("count", "finite", "zeros"), none + zeros)
    return merge_parts([torch.stack([getattr(moments, name), more[name]]) for name in PARTS])


class Sums(NamedTuple):
    """The moments of one part as plain numbers, for the engine whose tensors are NumPy's."""

    total: float  # all values, NaN and Inf too
    finite: float
    mean: float
    m2: float
    low: float
    high: float
    zeros: float
    nan: float


def merge_sums(a: Sums, b: Sums) -> Sums:
    """Chan's formula for two parts."""
    n, m = a.finite, b.finite
    if n == 0 or m == 0:
        some = b if n == 0 else a
        return some._replace(total=a.total + b.total, nan=a.nan + b.nan)
    difference = b.mean - a.mean
    return Sums(
        total=a.total + b.total,
        finite=n + m,
        mean=a.mean + difference * m / (n + m),
        m2=a.m2 + b.m2 + difference**2 * n * m / (n + m),
        low=min(a.low, b.low),
        high=max(a.high, b.high),
        zeros=a.zeros + b.zeros,
        nan=a.nan + b.nan,
    )


def make_row_of_sums(sums: Sums) -> list[float]:
    """The numbers of `statistics.COLUMNS`."""
    n, is_constant = sums.finite, sums.low == sums.high
    m2 = 0.0 if is_constant else sums.m2
    numbers = {
        "count": sums.total,
        "mean": sums.mean if n else NAN,
        "std": math.sqrt(m2 / n) if n else NAN,
        "min": sums.low if n else NAN,
        "max": sums.high if n else NAN,
        "zeros": sums.zeros,
        "nan": sums.nan,
        "inf": sums.total - n - sums.nan,
        "l2": math.sqrt(m2 + n * sums.mean**2) if n else 0.0,
    }
    return [numbers[name] for name in COLUMNS]
