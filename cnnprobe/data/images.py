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
from cnnprobe.data.pixels import PixelTally, open_picture
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
        self.features: list[tuple[NDArray[np.float32], int]] = []  # with their labels
        self.pixels = PixelTally()
        self.latest: NDArray[np.float32] | None = None  # the sketches of the last batch
        self._per_class: Counter[int | None] = Counter()
        self._found: dict[str, list[Any]] = {"constant": [], "nonfinite": [], "duplicates": []}
        self._counts: Counter[str] = Counter()

    def add(self, column: Column, spots: list[Spotted], given: Bounds | None = None) -> None:
        """Take in the images of a batch; `given` are the bounds of their channels, where they are
        known.
        """
        values = column.values
        if isinstance(values, Tensor):
            self._add_batch(values, spots, given if given is not None else bound_channels(values))
            return
        for image, spot in zip(values, spots, strict=False):
            if isinstance(image, Tensor) and image.numel():
                self._add_batch(image[None], [spot], bound_channels(image[None]))

    def _add_batch(self, batch: Tensor, spots: list[Spotted], bounds: Bounds) -> None:
        if not batch.numel():
            return
        copies = copy_images(batch)
        self.latest = copies.sketches
        self.pixels.add(batch, spots)
        self.pixels.add_means(copies.pooled.mean((2, 3)), spots)
        single = find_single(batch, bounds)
        for i, (spot, (low, high)) in enumerate(zip(spots, list_bounds(bounds), strict=False)):
            if not (np.isfinite(low) and np.isfinite(high)):
                self._note("nonfinite", spot, batch[i], spot)
            elif single[i]:
                self._note("constant", spot, batch[i], spot)
            else:
                self._compare(batch[i], spot, copies.sketches[i])
                self.pixels.add_range(spot.label, low, high)
                if spot.label is not None and len(self.features) < FEATURES:
                    self.features.append((copies.features[i], spot.label))
            self._keep(batch[i], spot)

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
            unopened=tuple(
                spot.name
                for spot in self._found["constant"]
                if spot.name and open_picture(spot.name) is None
            ),
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


def find_single(batch: Tensor, bounds: Bounds) -> list[bool]:
    """Which images have a single colour: one value in each of their channels."""
    low, high = bounds
    if batch.dim() < 4:  # rows or features are no channels
        low, high = low.amin(1, keepdim=True), high.amax(1, keepdim=True)
    return [bool(each) for each in (low == high).all(1).tolist()]


@dataclass(frozen=True, slots=True)
class Copies:
    """Small copies of the images of a batch."""

    pooled: NDArray[np.float32]  # (N, C, SIDE, SIDE), in their own numbers; grey of a clip
    sketches: NDArray[np.float32]  # (N, SIDE * SIDE), grey, in [0, 1]; all zero: a single value
    features: NDArray[np.float32]  # (N, F), from which classes are told


def copy_images(batch: Tensor) -> Copies:
    """Small copies of images, shape (N, C, H, W); clips and volumes become grey, and features of
    one dim a row.
    """
    step = max(1, min(batch.shape[-2:]) // (4 * SIDE)) if batch.dim() > 2 else 1
    some = batch.detach()[..., ::step, ::step].float().nan_to_num(0, 0, 0)
    while some.dim() > 4:
        some = some.mean(1)
    some = some.reshape(len(some), *(1,) * (4 - some.dim()), *some.shape[1:])
    some = some if some.shape[1] <= 4 else some.mean(1, keepdim=True)
    pooled = adaptive_avg_pool2d(some, (SIDE, SIDE)) if batch.dim() > 2 else some
    grey = pooled.mean(1).reshape(len(batch), -1)
    low, high = grey.amin(1, keepdim=True), grey.amax(1, keepdim=True)
    coarse = avg_pool2d(pooled, 2).flatten(1) if batch.dim() > 2 else grey
    texture = [some.std((2, 3), correction=0), *(_measure_steps(some, dim) for dim in (-1, -2))]
    return Copies(
        pooled.cpu().numpy(),
        ((grey - low) / (high - low).clamp(min=1e-12)).cpu().numpy(),
        torch.cat([coarse, *texture], dim=1).cpu().numpy(),
    )


def _measure_steps(images: Tensor, dim: int) -> Tensor:
    """The mean size of the steps along a dim, of each channel; (N, C)."""
    if images.shape[dim] < 2:
        return images.new_zeros(images.shape[:2])
    return images.diff(dim=dim).abs().mean((2, 3))


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
