"""Statistics by torch's own operations, for every kind of tensor and device; no value is asked for,
so nothing waits for a device.
"""

import torch
from torch import Tensor

from cnnprobe.stats.content import Content
from cnnprobe.stats.moments import (
    INF,
    NAN,
    PARTS,
    Moments,
    add_zeros,
    compute_mean_and_std,
    make_row,
    merge_parts,
    repeat,
)
from cnnprobe.stats.table import SIGNED, MeasuredRows

CHUNK = 2**21  # elements at a time: 16 MB of temporaries in double precision


_COUNTED = [0, 3, 4]  # count, zeros and nonfinite of `_measure_channels`


def measure(content: Content, *, histogram: bool = False, channels: bool = False) -> MeasuredRows:
    """Row, histogram and channels of the values, as tensors on their device."""
    x = content.values
    scale = _choose_scale(x)
    moments = measure_moments(x.reshape(-1), scale)
    if content.implied_zeros:  # the ones that a sparse tensor does not store
        moments = add_zeros(moments, content.implied_zeros)
    row = make_row(repeat(moments, content.repeats) if content.repeats > 1 else moments, scale)
    counts = _count_exponents(x.reshape(-1)) * content.repeats if histogram else None
    by_channel = (
        _measure_channels(x, scale)
        if channels and x.dim() > 1 and not content.implied_zeros
        else None
    )
    if by_channel is not None and content.repeats > 1:
        by_channel[_COUNTED] *= content.repeats
    return MeasuredRows(row, counts, by_channel)


def _widen(x: Tensor) -> torch.dtype:
    return (
        torch.float32 if x.device.type == "mps" else torch.float64
    )  # Apple's GPUs have no double precision


def _choose_scale(x: Tensor) -> Tensor | None:
    """A power of two near the greatest magnitude of doubles, whose squares overflow from 1e154; no
    other dtype needs it.
    """
    if x.dtype != torch.float64 or x.numel() == 0:
        return None
    greatest = torch.where(x.isfinite(), x, 0.0).abs().amax()
    return torch.exp2(torch.frexp(greatest).exponent.clamp(-1000, 1000).double())


def _measure_part(x: Tensor, scale: Tensor | None) -> tuple[Tensor, ...]:
    """Moments of `x` over its last dimension, in the order of `moments.PARTS`."""
    wide = x.to(_widen(x))
    finite, nan = wide.isfinite(), wide.isnan()
    scaled = wide if scale is None else wide / scale
    values = torch.where(finite, scaled, 0.0)
    n = finite.sum(-1, dtype=wide.dtype)
    mean = values.sum(-1) / n.clamp(min=1)
    deviations = torch.where(finite, scaled - mean.unsqueeze(-1), 0.0)
    return (
        torch.full_like(n, x.shape[-1]),
        n,
        mean,
        deviations.square().sum(-1),
        values.square().sum(-1),
        torch.where(finite, wide, INF).amin(-1),
        torch.where(finite, wide, -INF).amax(-1),
        (wide == 0).sum(-1, dtype=wide.dtype),
        nan.sum(-1, dtype=wide.dtype),
    )


def measure_moments(flat: Tensor, scale: Tensor | None = None) -> Moments:
    """The moments of all values; mean and squares of values over `scale`, where there is one."""
    if flat.numel() == 0:
        nothing = dict.fromkeys(PARTS, torch.zeros((), dtype=_widen(flat), device=flat.device))
        return Moments(**nothing | {"low": nothing["low"] + INF, "high": nothing["high"] - INF})
    return merge_parts(
        _join_columns([_measure_part(chunk, scale) for chunk in torch.split(flat, CHUNK)])
    )


def _join_columns(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*parts, strict=True)]


def _count_exponents(flat: Tensor) -> Tensor:
    """Counts by exponent and sign; see `statistics.Histogram`."""
    counts = torch.zeros(SIGNED + 1, dtype=torch.int64, device=flat.device)
    for chunk in torch.split(flat, CHUNK):
        wide = chunk.to(_widen(flat))
        exponent = torch.frexp(wide).exponent.long() + 126  # frexp's mantissa is in [0.5, 1)
        slot = exponent.clamp(0, 254) + torch.where(wide.signbit(), 256, 0)
        # What has no bucket goes to a slot of its own: selecting by a mask would wait for the
        # device.
        slot = torch.where(wide.isfinite() & (wide != 0), slot, SIGNED)
        counts.scatter_add_(0, slot, torch.ones_like(slot))
    return counts[:SIGNED]


def _measure_channels(x: Tensor, scale: Tensor | None) -> Tensor:
    """Count, mean, std, zeros and non-finite values of each channel, shape (5, C)."""
    channels = x.shape[1]
    if x.numel() == 0:
        empty = torch.zeros(5, channels, dtype=_widen(x), device=x.device)
        empty[1:3] = NAN
        return empty
    samples = max(1, CHUNK // (x.numel() // x.shape[0]))
    pieces = [piece.movedim(1, 0).reshape(channels, -1) for piece in torch.split(x, samples)]
    parts = merge_parts(_join_columns([_measure_part(piece, scale) for piece in pieces]))
    mean, std = compute_mean_and_std(parts, scale)
    return torch.stack([parts.count, mean, std, parts.zeros, parts.count - parts.finite])
