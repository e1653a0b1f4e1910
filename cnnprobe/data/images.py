"""What is kept of single images: constant ones, ones with NaN, fingerprints that tell equal ones,
small copies to be drawn.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from cnnprobe.data.columns import Column
from cnnprobe.data.facts import Images, Pair, Spotted
from cnnprobe.data.tallies import Bounds, bound_channels

NAMED = 8  # samples of a kind that are named
FINGERPRINTS = 20_000  # images that are remembered
SIDE = 16  # pixels of the sketch by which pictures are compared
# Of the range of an image, between two sketches: below both, JPEG of quality 75 and up stays.
ALIKE_MEAN = 0.008
ALIKE_MOST = 0.06
TEXTURE = 0.05  # of the range: the std of a sketch below which all pictures look alike
FEATURES = 1024  # small copies that are kept with their labels
CANDIDATES = 64  # earlier pictures that one is compared with
HASHED = 8_192  # numbers of an image that are hashed, at least; up to twice that are hashed whole
THUMBNAILS = 48  # images that are kept to be drawn
THUMBNAIL = 96  # pixels of the longer side


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small copy of an image, in the numbers that the model gets."""

    pixels: NDArray[np.float32]  # (C, H, W)
    spot: Spotted
    extra: Any = None  # boxes or a mask, in the scale of the copy


class ImageTally:
    """Single images that are suspicious, and the fingerprints of all."""

    def __init__(self) -> None:
        self.prints: dict[bytes, Spotted] = {}
        self.sketches: dict[bytes, list[tuple[NDArray[np.float32], Spotted]]] = {}
        self.thumbnails: list[Thumbnail] = []
        self.suspects: list[Thumbnail] = []
        self.features: list[tuple[NDArray[np.float32], int]] = []  # small copies with their labels
        self._per_class: Counter[int | None] = Counter()
        self._found: dict[str, list[Any]] = {"constant": [], "nonfinite": [], "duplicates": []}
        self._counts: Counter[str] = Counter()

    def add(self, column: Column, spots: list[Spotted], given: Bounds | None = None) -> None:
        """Take in the images of a batch; `given` are the bounds of their channels, where they are
        known.
        """
        values = column.values
        stacked = isinstance(values, Tensor)
        bounds = None if given is None else list_bounds(given)
        sketches = sketch_images(values) if stacked else None
        for i, spot in enumerate(spots):
            image = values[i]
            if not isinstance(image, Tensor) or not image.numel():
                continue
            sketch = sketches[i] if sketches is not None else sketch_images(image[None])[0]
            low, high = (
                bounds[i] if bounds is not None else list_bounds(bound_channels(image[None]))[0]
            )
            self._judge(image, low, high, spot, sketch)

    def _judge(
        self, image: Tensor, low: float, high: float, spot: Spotted, sketch: NDArray[np.float32]
    ) -> None:
        if not (np.isfinite(low) and np.isfinite(high)):
            self._note("nonfinite", spot, image, spot)
        elif low == high:
            self._note("constant", spot, image, spot)
        else:
            self._compare(image, spot, sketch)
            if spot.label is not None and len(self.features) < FEATURES:
                halves = (
                    sketch.reshape(SIDE // 2, 2, SIDE // 2, 2) if len(sketch) == SIDE**2 else None
                )
                if halves is not None:
                    self.features.append((halves.mean((1, 3)).reshape(-1), spot.label))
        self._keep(image, spot)

    def _keep(self, image: Tensor, spot: Spotted) -> None:
        """Keep a small copy, of each class about as many: a rarer class takes the place of a
        frequent one.
        """
        if len(self.thumbnails) >= THUMBNAILS:
            label, most = self._per_class.most_common(1)[0]
            if most - 1 <= self._per_class[spot.label]:
                return
            latest = max(i for i, t in enumerate(self.thumbnails) if t.spot.label == label)
            del self.thumbnails[latest]
            self._per_class[label] -= 1
        self._per_class[spot.label] += 1
        self.thumbnails.append(Thumbnail(shrink(image), spot))

    def _compare(self, image: Tensor, spot: Spotted, sketch: NDArray[np.float32]) -> None:
        key = fingerprint(image)
        earlier = self.prints.get(key)
        exact = earlier is not None
        coarse = coarsen(sketch)
        if earlier is None and coarse:
            earlier = find_similar(self.sketches.get(coarse, []), sketch)
        if earlier is not None and not _is_same(earlier, spot):
            self._counts["repeated" if exact else "similar"] += 1
            if earlier.label != spot.label:
                self._counts["contradicting"] += 1
            self._note("duplicates", Pair(first=earlier, second=spot, exact=exact), image, spot)
        if earlier is None and len(self.prints) < FINGERPRINTS:
            self.prints[key] = spot
            if coarse:
                self.sketches.setdefault(coarse, []).append((sketch, spot))

    def _note(self, kind: str, what: Any, image: Tensor, spot: Spotted) -> None:
        self._counts[kind] += 1
        if len(self._found[kind]) < NAMED:
            self._found[kind].append(what)
            self.suspects.append(Thumbnail(shrink(image), spot))

    def describe(self, **more: Any) -> Images:
        """What was met, as plain data."""
        return Images(
            constant=tuple(self._found["constant"]),
            constants=self._counts["constant"],
            nonfinite=tuple(self._found["nonfinite"]),
            nonfinites=self._counts["nonfinite"],
            duplicates=tuple(self._found["duplicates"]),
            repeated=self._counts["repeated"],
            similar=self._counts["similar"],
            contradicting=self._counts["contradicting"],
            **more,
        )


def _is_same(earlier: Spotted, spot: Spotted) -> bool:
    """Whether it is one sample, drawn again."""
    return earlier.index is not None and earlier.index == spot.index


def list_bounds(given: Bounds) -> list[tuple[float, float]]:
    """The least and the greatest value of each sample; NaN where it has one."""
    low, high = given
    return list(zip(low.amin(1).tolist(), high.amax(1).tolist(), strict=True))


def fingerprint(image: Tensor) -> bytes:
    """A hash of what an image holds: its numbers (of a large one every k-th), type and shape."""
    hashed = hashlib.blake2b(f"{image.dtype}{tuple(image.shape)}".encode(), digest_size=16)
    if image.dim():
        flat = image.detach().reshape(-1)
        # An odd step, so that not the same columns of each row are hashed.
        flat = flat[:: (len(flat) // HASHED) | 1]
        held = flat.cpu().contiguous().view(torch.uint8).numpy()
        hashed.update(held.tobytes())
    return hashed.digest()


def sketch_images(batch: Tensor) -> NDArray[np.float32]:
    """Each image as SIDE x SIDE grey values in [0, 1] of its own range; all zero where it is
    constant.
    """
    step = max(1, min(batch.shape[-2:]) // (4 * SIDE)) if batch.dim() > 2 else 1
    some = batch.detach()[..., ::step, ::step] if step > 1 else batch.detach()
    grey = some.float().nan_to_num(0, 0, 0)
    while grey.dim() > 3:
        grey = grey.mean(1)
    small = adaptive_avg_pool2d(grey, (SIDE, SIDE)) if grey.dim() == 3 else grey[:, None, :]
    flat = small.reshape(len(batch), -1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return np.asarray(((flat - low) / (high - low).clamp(min=1e-12)).cpu().numpy())


def coarsen(sketch: NDArray[np.float32]) -> bytes:
    """A key that pictures equal to the eye share: a few means, rounded; empty where there is
    nothing to see.
    """
    if len(sketch) != SIDE * SIDE or float(sketch.std()) < TEXTURE:
        return b""
    blocks = sketch.reshape(2, SIDE // 2, 2, SIDE // 2).mean((1, 3))
    return bytes((blocks.reshape(-1) * 8 + 0.5).astype(np.uint8))


def find_similar(
    candidates: list[tuple[NDArray[np.float32], Spotted]], sketch: NDArray[np.float32]
) -> Spotted | None:
    """The picture among the candidates that is equal to the eye."""
    if not candidates:
        return None
    apart = np.abs(np.stack([other for other, _ in candidates[:CANDIDATES]]) - sketch)
    alike = (apart.max(1) < ALIKE_MOST) & (apart.mean(1) < ALIKE_MEAN)
    return candidates[int(alike.argmax())][1] if alike.any() else None


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
