"""Moments of the parts of a tensor, wherever they were measured, and how they become a row of statistics."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COLUMNS = ("count", "finite", "mean", "m2", "squares", "low", "high", "zeros", "nan")
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


def merged(columns: Sequence[Tensor]) -> Moments:
    """Chan's formula over the first dimension of the COLUMNS, each of shape (parts, ...)."""
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


def mean_and_std(moments: Moments, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and population std, times `scale`; NaN where nothing is finite."""
    mean, std = moments.mean, (moments.m2 / moments.finite.clamp(min=1)).sqrt()
    if scale is not None:
        mean, std = mean * scale, std * scale
    constant, some = moments.low == moments.high, moments.finite > 0
    mean = torch.where(constant, moments.low, mean)
    # Population std: a single element gives 0; the unbiased one divides by zero and gives NaN.
    std = torch.where(constant, 0.0, std)
    return torch.where(some, mean, NAN), torch.where(some, std, NAN)


def row_of(moments: Moments, scale: Tensor | None = None) -> Tensor:
    """Count, mean, std, min, max, zeros, nan, inf, l2 along a new last dimension."""
    mean, std = mean_and_std(moments, scale)
    some = moments.finite > 0
    l2 = moments.squares.sqrt() if scale is None else moments.squares.sqrt() * scale
    low, high = (torch.where(some, bound, NAN) for bound in (moments.low, moments.high))
    inf = moments.count - moments.finite - moments.nan
    return torch.stack(
        [moments.count, mean, std, low, high, moments.zeros, moments.nan, inf, l2], dim=-1
    )
