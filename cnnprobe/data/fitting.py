"""Whether masks belong to their images: their edges lie on edges of the images, or on those of the
neighbours in the list.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from cnnprobe.data.facts import Fit

SIDE = 64  # pixels of the copies that are compared
SKETCH = 16  # pixels of the copies of two images that are compared
FARTHEST = 3  # places in the list
Outline = tuple[NDArray[Any], NDArray[Any]]  # the edges of an image, and its mask
FEWEST = 12  # masks with edges, below which nothing is said
_TURNS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "flipped left to right": np.fliplr,
    "flipped top to bottom": np.flipud,
    "turned by 180 degrees": lambda mask: mask[::-1, ::-1],
    "turned by 90 degrees": np.rot90,
    "turned by 270 degrees": lambda mask: np.rot90(mask, 3),
    "with rows and columns exchanged": np.transpose,
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
    own = [_measure_fit(*pairs[i]) for i in kept]
    return _choose(
        own,
        {(s, ""): [_measure_fit(pairs[i + s][0], pairs[i][1]) for i in kept] for s in shifts},
    )


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
    own = [_measure_fit(*pair) for pair in kept]
    turned = {
        (0, name): [_measure_fit(edges, turn(mask)) for edges, mask in kept]
        for name, turn in _TURNS.items()
    }
    return _choose(own, turned)


def outline(image: Any, mask: Any) -> Outline | None:
    """The edges of an image, (C, H, W), and its mask, in copies of SIDE pixels a side; None of what
    is none.
    """
    if not isinstance(image, Tensor) or not isinstance(mask, Tensor) or image.dim() != 3:
        return None
    return _find_edges(image.detach().cpu()), _shrink_mask(mask.detach().cpu())


def _has_edges(pair: Outline) -> bool:
    return bool(0 < _find_border(pair[1]).sum() < SIDE * SIDE)


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


def _find_edges(image: Tensor) -> NDArray[Any]:
    """The size of the gradient of an image, in a copy of SIDE pixels a side."""
    grey = adaptive_avg_pool2d(image.float().nan_to_num(0, 0, 0).mean(0, keepdim=True), SIDE)[0]
    down, right = torch.zeros_like(grey), torch.zeros_like(grey)
    down[:-1], right[:, :-1] = grey.diff(dim=0), grey.diff(dim=1)
    return np.asarray((down.abs() + right.abs()).numpy())


def _shrink_mask(mask: Tensor) -> NDArray[Any]:
    """The first map of a mask, SIDE pixels a side."""
    flat = mask.reshape(-1, *mask.shape[-2:])[:1].float()
    small = interpolate(flat[None], size=(SIDE, SIDE), mode="nearest")[0, 0]
    return np.asarray(small.numpy())


def _find_border(mask: NDArray[Any]) -> NDArray[Any]:
    """The pixels whose lower or right neighbour has another value."""
    border = np.zeros(mask.shape, dtype=bool)
    border[:-1] |= mask[1:] != mask[:-1]
    border[:, :-1] |= mask[:, 1:] != mask[:, :-1]
    return border
