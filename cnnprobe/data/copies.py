"""Small copies of images: by which pictures are compared, classes are told, and sheets are drawn.

They are made of every k-th pixel, so that a large image is not read as a whole again.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

SIDE = 16  # pixels of a side of the copy by which pictures are compared
READ = 2  # pixels of each of its pixels, along each dim, that are read
TEXTURE = 0.05  # of the range: the std of a sketch below which all pictures look alike
THUMBNAIL = 96  # pixels of the longer side
EDGES = 4  # places along each dim at which edges are counted
COLOURS = 4  # channels; of more the mean is taken


@dataclass(frozen=True, slots=True)
class Copies:
    """Small copies of the images of a batch."""

    prints: list[bytes]  # that only equal images share
    pooled: NDArray[np.float32]  # (N, C, SIDE, SIDE), in their own numbers; grey of a clip
    sketches: NDArray[np.float32]  # (N, SIDE * SIDE), grey, in [0, 1]; all zero: a single value
    keys: list[bytes]  # that pictures equal to the eye share; empty where nothing is to be seen
    features: NDArray[np.float32]  # (N, F), from which classes are told
    low: list[float]  # of the pixels that were read
    high: list[float]
    single: list[bool]  # one value in each of the channels, of the pixels that were read
    tops: list[float]  # share of the values that are the greatest of their channel
    bottoms: list[float]


def copy_images(batch: Tensor) -> Copies:
    """Small copies of images, shape (N, C, H, W); clips and volumes become grey, and features of
    one dim a row.
    """
    some = _take_pixels(batch)
    lows, highs = some.flatten(2).amin(2), some.flatten(2).amax(2)
    if not bool((lows - highs).isfinite().all()):
        some = some.nan_to_num(0, 0, 0)
        lows, highs = some.flatten(2).amin(2), some.flatten(2).amax(2)
    is_flat = batch.dim() < 3
    pooled = some if is_flat else adaptive_avg_pool2d(some, (SIDE, SIDE))
    grey = pooled.mean(1).reshape(len(batch), -1)
    low, high = grey.amin(1, keepdim=True), grey.amax(1, keepdim=True)
    sketches = np.asarray(((grey - low) / (high - low).clamp(min=1e-12)).numpy())
    held = np.ascontiguousarray(pooled.numpy())
    form = f"{batch.dtype}{tuple(batch.shape[1:])}".encode()
    single = (
        lows == highs if batch.dim() > 3 else lows.amin(1, keepdim=True) == highs.amax(1)[:, None]
    )
    return Copies(
        prints=[hashlib.blake2b(form + each.tobytes(), digest_size=16).digest() for each in held],
        pooled=held,
        sketches=sketches,
        keys=[b""] * len(batch) if is_flat else list_keys(sketches),
        features=_describe(some, pooled, is_flat=is_flat),
        low=lows.amin(1).tolist(),
        high=highs.amax(1).tolist(),
        single=single.all(1).tolist(),
        tops=_share(some, highs),
        bottoms=_share(some, lows),
    )


def _share(some: Tensor, ends: Tensor) -> list[float]:
    equal = some[..., ::2, ::2] == ends[:, :, None, None]  # a quarter tells a large part
    found: list[float] = equal.float().mean((1, 2, 3)).tolist()
    return found


def _take_pixels(batch: Tensor) -> Tensor:
    """Every k-th pixel of each image, as (N, C, H, W) of float32 with at most four channels."""
    step = max(1, min(batch.shape[-2:]) // (READ * SIDE)) if batch.dim() > 2 else 1
    step -= step > 1 and step % 2 == 0  # odd, and from the middle: of a mirrored image the same
    some = batch.detach()
    if step > 1:  # rows first: one copy takes three times as long
        high, wide = ((side - 1) % step // 2 for side in batch.shape[-2:])
        some = some[..., high::step, :].contiguous()[..., wide::step]
    some = some.cpu().float().contiguous()
    while some.dim() > 4:
        some = some.mean(1)
    some = some.reshape(len(some), *(1,) * (4 - some.dim()), *some.shape[1:])
    return some if some.shape[1] <= COLOURS else some.mean(1, keepdim=True)


def _describe(some: Tensor, pooled: Tensor, *, is_flat: bool) -> NDArray[np.float32]:
    """Colours at 8 x 8 places, the strength of edges of four directions at 4 x 4 places, and the
    contrast.
    """
    if is_flat:
        return np.asarray(pooled.flatten(1).numpy())
    grey = some.mean(1)
    apart = grey - grey.mean((1, 2), keepdim=True)
    parts = [avg_pool2d(pooled, 2).flatten(1), apart.square().mean((1, 2)).sqrt()[:, None]]
    if min(grey.shape[1:]) > EDGES:
        here, right = grey[:, :-1, :-1], grey[:, :-1, 1:]
        below, across = grey[:, 1:, :-1], grey[:, 1:, 1:]
        edges = torch.stack([here - right, here - below, here - across, right - below], dim=1)
        parts.append(adaptive_avg_pool2d(edges.abs(), (EDGES, EDGES)).flatten(1))
    return np.asarray(torch.cat(parts, dim=1).numpy())


def list_keys(sketches: NDArray[np.float32]) -> list[bytes]:
    """A key of each sketch that pictures equal to the eye share: a few means, rounded; empty where
    there is nothing to see.
    """
    blocks = sketches.reshape(len(sketches), 2, SIDE // 2, 2, SIDE // 2).mean((2, 4)).reshape(-1, 4)
    rounded = (blocks * 8 + 0.5).astype(np.uint8)
    seen = sketches.std(1) >= TEXTURE
    return [row.tobytes() if is_seen else b"" for row, is_seen in zip(rounded, seen, strict=True)]


def shrink(image: Tensor) -> NDArray[np.float32]:
    """A copy of at most THUMBNAIL pixels a side, (C, H, W); of a clip or a volume its middle."""
    small = image.detach().float()
    while small.dim() > 3:
        is_clip = small.shape[0] > 4 and small.shape[1] in (1, 3)
        small = small[small.shape[0] // 2] if is_clip else small[:, small.shape[1] // 2]
    small = small[None] if small.dim() == 2 else small
    step = max(1, -(-max(small.shape[-2:]) // THUMBNAIL))
    if step > 1 and min(small.shape[-2:]) >= step:
        small = avg_pool2d(small[:3], step)
    return np.asarray(small[:3].cpu().numpy(), dtype=np.float32)
