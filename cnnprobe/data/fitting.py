"""Whether masks belong to their images: their edges lie on edges of the images, or on those of the
neighbours in the list.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from cnnprobe.data.facts import Fit

SIDE = 64  # pixels of the copies that are compared
FARTHEST = 3  # places in the list
FEWEST = 12  # masks with edges, below which nothing is said


def find_fit(images: Sequence[Any], masks: Sequence[Any]) -> Fit | None:
    """Which images, counted from its own in the list, the edges of a mask fit best.

    Args:
        images: side by side in the list, each (C, H, W).
        masks: theirs, each (H, W) or (1, H, W).

    Returns:
        None where fewer than FEWEST masks have edges.
    """
    pairs = [
        (_find_edges(image), _find_border(mask))
        for image, mask in zip(images, masks, strict=False)
        if isinstance(image, Tensor) and isinstance(mask, Tensor) and image.dim() == 3
    ]
    if len(pairs) < FEWEST or len(pairs) < len(images):
        return None
    shifts = [s for s in range(-FARTHEST, FARTHEST + 1) if s]
    inner = range(FARTHEST, len(pairs) - FARTHEST)
    kept = [i for i in inner if 0 < pairs[i][1].sum() < SIDE * SIDE]
    if len(kept) < FEWEST:
        return None
    own = np.array([_measure_fit(pairs[i][0], pairs[i][1]) for i in kept])
    found = [_compare(pairs, kept, own, shift) for shift in shifts]
    best = max(found, key=lambda fit: fit.z)
    return best if best.best > best.own else None


def _compare(pairs: Sequence[Any], kept: Sequence[int], own: NDArray[Any], shift: int) -> Fit:
    other = np.array([_measure_fit(pairs[i + shift][0], pairs[i][1]) for i in kept])
    gain = other - own
    error = max(float(gain.std(ddof=1)) / len(kept) ** 0.5, 1e-9)
    return Fit(
        pairs=len(kept), shift=shift, own=float(own.mean()), best=float(other.mean()),
        z=float(gain.mean()) / error,
    )  # fmt: skip


def _measure_fit(edges: NDArray[Any], border: NDArray[Any]) -> float:
    """The strength of the edges of an image under the border of a mask, over that all over it."""
    return float(edges[border].mean() / max(float(edges.mean()), 1e-12))


def _find_edges(image: Tensor) -> NDArray[Any]:
    """The size of the gradient of an image, in a copy of SIDE pixels a side."""
    grey = adaptive_avg_pool2d(image.float().nan_to_num(0, 0, 0).mean(0, keepdim=True), SIDE)[0]
    down, right = torch.zeros_like(grey), torch.zeros_like(grey)
    down[:-1], right[:, :-1] = grey.diff(dim=0), grey.diff(dim=1)
    return np.asarray((down.abs() + right.abs()).numpy())


def _find_border(mask: Tensor) -> NDArray[Any]:
    """The pixels of a mask whose lower or right neighbour has another value."""
    flat = mask.reshape(-1, *mask.shape[-2:])[:1].float()
    small = interpolate(flat[None], size=(SIDE, SIDE), mode="nearest")[0, 0]
    border = torch.zeros_like(small, dtype=torch.bool)
    border[:-1] |= small.diff(dim=0) != 0
    border[:, :-1] |= small.diff(dim=1) != 0
    return np.asarray(border.numpy())
