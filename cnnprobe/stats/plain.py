"""Statistics by torch's own operations, for every kind of tensor and device; no value is asked for, so nothing waits for a device."""

import torch
from torch import Tensor

from cnnprobe.stats.content import Content
from cnnprobe.stats.moments import INF, NAN, mean_and_std, merged, row_of
from cnnprobe.stats.table import SIGNED, WRITTEN, Measured

CHUNK = 2**21  # elements at a time: 16 MB of temporaries in double precision


def measure(content: Content, *, histogram: bool = False, channels: bool = False) -> Measured:
    """Row, histogram and channels of the values, as tensors on their device."""
    x = content.values
    scale = _scale(x)
    row = _row(x.reshape(-1), scale)
    row = _repeat(_with_zeros(row, content.implied_zeros), content.repeats)
    counts = _histogram(x.reshape(-1)) * content.repeats if histogram else None
    by_channel = (
        _channels(x, scale) if channels and x.dim() > 1 and not content.implied_zeros else None
    )
    if by_channel is not None and content.repeats > 1:
        by_channel[[0, 3, 4]] *= content.repeats
    return Measured(row, counts, by_channel)


def _wide(x: Tensor) -> torch.dtype:
    return (
        torch.float32 if x.device.type == "mps" else torch.float64
    )  # Apple's GPUs have no double precision


def _scale(x: Tensor) -> Tensor | None:
    """A power of two near the greatest magnitude of doubles, whose squares overflow from 1e154; no other dtype needs it."""
    if x.dtype != torch.float64 or x.numel() == 0:
        return None
    greatest = torch.where(x.isfinite(), x, 0.0).abs().amax()
    return torch.exp2(torch.frexp(greatest).exponent.clamp(-1000, 1000).double())


def _part(x: Tensor, scale: Tensor | None) -> tuple[Tensor, ...]:
    """Moments of `x` over its last dimension, in the order of `moments.COLUMNS`."""
    wide = x.to(_wide(x))
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


def _row(flat: Tensor, scale: Tensor | None) -> Tensor:
    if flat.numel() == 0:
        return torch.tensor(
            [0, NAN, NAN, NAN, NAN, 0, 0, 0, 0], dtype=_wide(flat), device=flat.device
        )
    return row_of(
        merged(_columns([_part(chunk, scale) for chunk in torch.split(flat, CHUNK)])), scale
    )


def _columns(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*parts, strict=True)]


def _with_zeros(row: Tensor, zeros: int) -> Tensor:
    """The row of the same values and `zeros` more zeros: the ones that a sparse tensor does not store."""
    if zeros == 0:
        return row
    count, mean, std, low, high, stored_zeros, nan, inf, l2 = row.unbind()
    n = count - nan - inf
    mean, std, low, high = (torch.where(n > 0, value, 0.0) for value in (mean, std, low, high))
    p = n / (n + zeros)
    std = torch.hypot(p.sqrt() * std, (p * (1 - p)).sqrt() * mean)
    return torch.stack(
        [
            count + zeros,
            p * mean,
            std,
            low.clamp(max=0),
            high.clamp(min=0),
            stored_zeros + zeros,
            nan,
            inf,
            l2,
        ]
    )


def _repeat(row: Tensor, repeats: int) -> Tensor:
    if repeats == 1:
        return row
    factors = torch.ones(WRITTEN, dtype=row.dtype)
    factors[[0, 5, 6, 7]] = repeats
    factors[8] = repeats**0.5
    return row * factors.to(row.device, non_blocking=True)


def _histogram(flat: Tensor) -> Tensor:
    """Counts by exponent and sign; see `statistics.Histogram`."""
    counts = torch.zeros(SIGNED + 1, dtype=torch.int64, device=flat.device)
    for chunk in torch.split(flat, CHUNK):
        wide = chunk.to(_wide(flat))
        exponent = torch.frexp(wide).exponent.long() + 126  # frexp's mantissa is in [0.5, 1)
        slot = exponent.clamp(0, 254) + torch.where(wide.signbit(), 256, 0)
        # What has no bucket goes to a slot of its own: selecting by a mask would wait for the device.
        slot = torch.where(wide.isfinite() & (wide != 0), slot, SIGNED)
        counts.scatter_add_(0, slot, torch.ones_like(slot))
    return counts[:SIGNED]


def _channels(x: Tensor, scale: Tensor | None) -> Tensor:
    """Count, mean, std, zeros and non-finite values of each channel, shape (5, C)."""
    channels = x.shape[1]
    if x.numel() == 0:
        empty = torch.zeros(5, channels, dtype=_wide(x), device=x.device)
        empty[1:3] = NAN
        return empty
    samples = max(1, CHUNK // (x.numel() // x.shape[0]))
    pieces = [piece.movedim(1, 0).reshape(channels, -1) for piece in torch.split(x, samples)]
    parts = merged(_columns([_part(piece, scale) for piece in pieces]))
    mean, std = mean_and_std(parts, scale)
    return torch.stack([parts.count, mean, std, parts.zeros, parts.count - parts.finite])
