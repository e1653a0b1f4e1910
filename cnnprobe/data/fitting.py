"""Whether masks belong to their images: their edges lie on edges of the images, or on those of the
neighbours in the list.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, interpolate

from cnnprobe.data.object_facts import Fit

SIDE = 64  # pixels of the copies that are compared
SKETCH = 16  # pixels of the copies of two images that are compared
FARTHEST = 3  # places in the list
DEEP = 24  # of the copies of volumes
VARIED = 0.5  # of the pixels of two masks that would differ by chance: masks that are not all alike
FEWEST_OWN = 24  # masks that are compared with those of other images
SHIFTS = 5  # other images that a mask is laid on


@dataclass(frozen=True, slots=True)
class Outline:
    """An image and its mask in copies of SIDE pixels a side, DEEP of a volume."""

    edges: NDArray[Any]  # the size of the gradient of the image
    mask: NDArray[Any]
    grey: NDArray[Any]  # the image


FEWEST = 12  # masks with edges, below which nothing is said
_TURNS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "flipped left to right": np.fliplr,
    "flipped top to bottom": np.flipud,
    "turned by 180 degrees": lambda mask: mask[::-1, ::-1],
    "turned by 90 degrees": np.rot90,
    "turned by 270 degrees": lambda mask: np.rot90(mask, 3),
    "with rows and columns exchanged": np.transpose,
}
_VOLUME_TURNS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    **{
        f"with their axes in the order {order}": partial(np.transpose, axes=order)
        for order in ((2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1))
    },
    **{f"flipped along axis {axis}": partial(np.flip, axis=axis) for axis in range(3)},
}


def find_fit(images: Sequence[Any], masks: Sequence[Any]) -> Fit | None:
    """Which images, counted from its own in the list, the edges of a mask fit best.

    Args:
        images: side by side in the list, each (C, H, W).
        masks: theirs, each (H, W) or (1, H, W).

    Returns:
        None where fewer than FEWEST masks have edges, or where their own images fit best.
    """
    found = [outline(image, mask) for image, mask in zip(images, masks, strict=False)]
    pairs = [pair for pair in found if pair is not None]
    if len(pairs) < FEWEST or len(pairs) < len(images):
        return None
    shifts = [s for s in range(-FARTHEST, FARTHEST + 1) if s]
    inner = range(FARTHEST, len(pairs) - FARTHEST)
    kept = [i for i in inner if _has_edges(pairs[i])]
    own = [_measure_fit(pairs[i].edges, pairs[i].mask) for i in kept]
    return _choose(
        own,
        {(s, ""): [_measure_fit(pairs[i + s].edges, pairs[i].mask) for i in kept] for s in shifts},
    )


def measure_own(pairs: Sequence[Outline]) -> float | None:
    """By how many standard errors masks fit their own images better than other ones: by the edges
    under their border, or by how far apart their classes are in brightness, whichever is more.

    Returns:
        About 0, give or take 1, where masks belong to other images; None where fewer than
        FEWEST_OWN have edges, and where all masks are about the same.
    """
    kept = [pair for pair in pairs if _has_edges(pair)]
    if len(kept) < FEWEST_OWN or not _vary([pair.mask for pair in kept]):
        return None
    others = [(k + 1) * len(kept) // (SHIFTS + 1) for k in range(SHIFTS)]
    found = []
    for fit in (_measure_edges, _measure_contrast):
        gains = [
            fit(each, each.mask)
            - float(np.mean([fit(kept[(i + s) % len(kept)], each.mask) for s in others]))
            for i, each in enumerate(kept)
        ]
        error = max(float(np.std(gains, ddof=1)) / float(np.sqrt(len(gains))), 1e-9)
        found.append(float(np.mean(gains)) / error)
    return max(found)


def _vary(masks: Sequence[NDArray[Any]]) -> bool:
    values, counts = np.unique(np.stack(masks), return_counts=True)
    by_chance = 1 - float(((counts / counts.sum()) ** 2).sum())
    half = len(masks) // 2
    differ = [float((a != b).mean()) for a, b in zip(masks, masks[half:], strict=False)]
    return len(values) > 1 and float(np.mean(differ)) >= VARIED * by_chance


def _measure_edges(image: Outline, mask: NDArray[Any]) -> float:
    return _measure_fit(image.edges, mask)


def _measure_contrast(image: Outline, mask: NDArray[Any]) -> float:
    """The share of the variance of an image that lies between the classes of a mask."""
    _, classes, counts = np.unique(mask, return_inverse=True, return_counts=True)
    apart = image.grey - image.grey.mean()
    sums = np.bincount(classes.reshape(-1), weights=apart.reshape(-1))
    return float((sums**2 / counts).sum() / max(float((apart**2).sum()), 1e-12))


def compare_pictures(images: Sequence[Any], targets: Sequence[Any]) -> float | None:
    """The correlation of images with their own target images of another size, the median; None
    where there are few, or where they are no such.
    """
    pairs = list(zip(images, targets, strict=False))
    if len(pairs) < FEWEST or not all(_is_picture(x) and _is_picture(y) for x, y in pairs):
        return None
    if any(x.shape == y.shape for x, y in pairs):
        return None
    return float(np.median([float(_sketch(x) @ _sketch(y)) for x, y in pairs]))


def match_pictures(images: Sequence[Any], targets: Sequence[Any]) -> Fit | None:
    """Which targets, counted from its own in the list, show what an image shows, as those of a
    super-resolution or of a denoising do.

    Returns:
        None where fewer than FEWEST are read, where most fit their own, and where the targets are
        the next images themselves, as those of a video are.
    """
    if len(images) < FEWEST or not all(_is_picture(x) for x in (*images, *targets)):
        return None
    ours, theirs = (np.stack([_sketch(x) for x in each]) for each in (images, targets))
    alike = ours @ theirs.T  # correlations, (N, N)
    shifts = [s for s in range(-FARTHEST, FARTHEST + 1) if s]
    medians = {s: float(np.median(alike.diagonal(s))) for s in shifts}
    best = max(shifts, key=lambda s: medians[s])
    inside = range(FARTHEST, len(images) - FARTHEST)
    if all(torch.equal(images[i], targets[i + best]) for i in inside):
        return None
    gain = np.array([alike[i, i + best] - alike[i, i] for i in inside])
    error = max(float(gain.std(ddof=1)) / len(gain) ** 0.5, 1e-9)
    return Fit(
        pairs=len(images), shift=best, own=float(np.median(alike.diagonal())), best=medians[best],
        z=float(gain.mean()) / error, pictures=True,
    )  # fmt: skip


def _is_picture(given: Any) -> bool:
    return isinstance(given, Tensor) and given.dim() == 3 and min(given.shape[-2:]) >= SKETCH // 2


def _sketch(image: Tensor) -> NDArray[Any]:
    """A grey copy of SKETCH pixels a side of mean 0 and length 1, as a vector."""
    grey = image.detach().cpu().float().nan_to_num(0, 0, 0).mean(0, keepdim=True)
    flat = np.asarray(adaptive_avg_pool2d(grey, SKETCH).reshape(-1).numpy())
    flat = flat - flat.mean()
    found: NDArray[Any] = flat / max(float(np.linalg.norm(flat)), 1e-12)
    return found


def find_turn(pairs: Sequence[Outline]) -> Fit | None:
    """How the masks are turned when their edges fit those of their own images best; None where
    fewer than FEWEST have edges, or where they fit best as they are.
    """
    kept = [pair for pair in pairs if _has_edges(pair)]
    own = [_measure_fit(pair.edges, pair.mask) for pair in kept]
    turns = _VOLUME_TURNS if kept and kept[0].mask.ndim == 3 else _TURNS
    turned = {
        (0, name): [_measure_fit(pair.edges, turn(pair.mask)) for pair in kept]
        for name, turn in turns.items()
    }
    return _choose(own, turned)


def outline(image: Any, mask: Any) -> Outline | None:
    """The edges of an image, (C, H, W), or of a volume, (C, D, H, W), and its mask; None of what is
    none.
    """
    if not isinstance(image, Tensor) or not isinstance(mask, Tensor):
        return None
    is_volume = image.dim() == 4 and mask.shape[-3:] == image.shape[-3:]
    if image.dim() != 3 and not is_volume:
        return None
    image = image.detach().cpu().float().nan_to_num(0, 0, 0).mean(0, keepdim=True)
    grey = adaptive_avg_pool3d(image, DEEP) if is_volume else adaptive_avg_pool2d(image, SIDE)
    flat = np.asarray(grey[0].numpy())
    return Outline(_find_edges(flat), _shrink_mask(mask.detach().cpu(), flat.shape), flat)


def _has_edges(pair: Outline) -> bool:
    return bool(0 < _find_border(pair.mask).sum() < pair.mask.size)


def _choose(own: Sequence[float], others: Mapping[tuple[int, str], Sequence[float]]) -> Fit | None:
    if len(own) < FEWEST:
        return None
    found = [_compare(np.array(own), fits, *which) for which, fits in others.items()]
    best = max(found, key=lambda fit: fit.z)
    return best if best.best > best.own else None


def _compare(own: NDArray[Any], others: Sequence[float], shift: int, turn: str) -> Fit:
    gain = np.array(others) - own
    error = max(float(gain.std(ddof=1)) / len(own) ** 0.5, 1e-9)
    return Fit(
        pairs=len(own), shift=shift, turn=turn, own=float(own.mean()),
        best=float(np.mean(others)), z=float(gain.mean()) / error,
    )  # fmt: skip


def _measure_fit(edges: NDArray[Any], mask: NDArray[Any]) -> float:
    """The strength of the edges of an image under the border of a mask, over that all over it."""
    border = _find_border(mask)
    return float(edges[border].mean() / max(float(edges.mean()), 1e-12))


def _find_edges(grey: NDArray[Any]) -> NDArray[Any]:
    """The size of the gradient of a copy."""
    found = np.zeros_like(grey)
    for axis in range(grey.ndim):
        found[_but_last(grey.ndim, axis)] += np.abs(np.diff(grey, axis=axis))
    return found


def _shrink_mask(mask: Tensor, shape: tuple[int, ...]) -> NDArray[Any]:
    """The first map of a mask, in a copy of a shape."""
    flat = mask.reshape(-1, *mask.shape[-len(shape) :])[:1].float()
    small = interpolate(flat[None], size=shape, mode="nearest")[0, 0]
    return np.asarray(small.numpy())


def _find_border(mask: NDArray[Any]) -> NDArray[Any]:
    """The pixels whose next neighbour along one of the axes has another value."""
    border = np.zeros(mask.shape, dtype=bool)
    for axis in range(mask.ndim):
        border[_but_last(mask.ndim, axis)] |= np.diff(mask, axis=axis) != 0
    return border


def _but_last(dims: int, axis: int) -> tuple[slice, ...]:
    return tuple(slice(None, -1) if each == axis else slice(None) for each in range(dims))
