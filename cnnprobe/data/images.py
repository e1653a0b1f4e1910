"""What is kept of single images: constant ones, ones with NaN, fingerprints that tell equal ones,
small copies to be drawn.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnprobe.data.beside import Seen
from cnnprobe.data.clues import Repeats
from cnnprobe.data.columns import BatchColumn
from cnnprobe.data.copies import SIDE, Copies, copy_images, shrink
from cnnprobe.data.image_facts import Blanks, Images
from cnnprobe.data.marks import MOST
from cnnprobe.data.pixels import PixelTally, open_picture
from cnnprobe.data.spots import SamePicture, Spotted
from cnnprobe.data.tables import RowTally

TINY = 8  # pixels of a side, from which on turned images are looked for
NAMED = 8  # samples of a kind that are named
FINGERPRINTS = 20_000  # images that are remembered
# Of the range of an image, between two sketches: below both, JPEG of quality 75 and up stays.
ALIKE_MEAN = 0.008
ALIKE_MOST = 0.06
FEATURES = 1024  # small copies that are kept with their labels
SKETCHES = 2048  # images that are compared with their neighbours and their files
CANDIDATES = 64  # earlier pictures that one is compared with
# Of an image: crops of slides and of scans are filled by their ground, so or wholly; digits and
# clothes on black are up to 0.86.
GROUNDS = (0.92, 0.75)
EDGE = 1e-3  # of the range of a small copy


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small copy of an image, in the numbers that the model gets."""

    pixels: NDArray[np.float32]  # (C, H, W)
    spot: Spotted
    extra: Any = None  # boxes or a mask, in the scale of the copy


class Album:
    """Sketches of pictures by their keys: the first CANDIDATES of each."""

    def __init__(self) -> None:
        self._rows: dict[bytes, NDArray[np.float32]] = {}
        self._spots: dict[bytes, list[Spotted]] = {}

    def find(self, key: bytes, sketch: NDArray[np.float32]) -> Spotted | None:
        """The first picture that is equal to the eye."""
        spots = self._spots.get(key)
        if not spots:
            return None
        apart = np.abs(self._rows[key][: len(spots)] - sketch)
        alike = (apart.mean(1) < ALIKE_MEAN) & (apart.max(1) < ALIKE_MOST)
        return spots[int(alike.argmax())] if alike.any() else None

    def add(self, key: bytes, sketch: NDArray[np.float32], spot: Spotted) -> None:
        """Keep a sketch; nothing where there is no key, or where enough are kept."""
        spots = self._spots.setdefault(key, [])
        if not key or len(spots) >= CANDIDATES:
            return
        rows = self._rows.get(key)
        if rows is None or len(rows) == len(spots):
            more = np.empty((max(4, len(spots)), SIDE * SIDE), dtype=np.float32)
            self._rows[key] = more if rows is None else np.concatenate([rows, more])
        self._rows[key][len(spots)] = sketch
        spots.append(spot)

    def __iter__(self) -> Iterator[tuple[bytes, NDArray[np.float32], Spotted]]:
        for key, spots in self._spots.items():
            yield from ((key, self._rows[key][i], spot) for i, spot in enumerate(spots))


class ImageTally:
    """Single images that are suspicious, and the fingerprints of all; so many are kept to be
    drawn.
    """

    def __init__(self, drawn: int = 48) -> None:
        self._drawn = drawn
        self.prints: dict[bytes, Spotted] = {}
        self.album = Album()
        self.thumbnails: list[Thumbnail] = []
        self.suspects: list[Thumbnail] = []
        self.features: list[tuple[NDArray[np.float32], int]] = []  # with their labels
        self.places: list[Spotted] = []  # of these
        self.pixels = PixelTally()
        self.latest: NDArray[np.float32] | None = None  # the sketches of the last batch
        self._per_class: Counter[int | None] = Counter()
        self._found: dict[str, list[Any]] = {"constant": [], "nonfinite": [], "duplicates": []}
        self._counts: Counter[str] = Counter()
        # value to images that hold hardly another one, and to those that hold mostly it
        self._grounds: dict[float, Counter[float]] = {share: Counter() for share in GROUNDS}
        self._blanks: Counter[tuple[float, float]] = Counter()  # bounds of constant images
        self.sketches: list[tuple[Spotted, NDArray[np.float32]]] = []
        self.seen: list[Seen] = []
        self.texts: dict[tuple[int, int], int] = {}  # by batch and position, as a hash
        self.rows = RowTally()  # where there are no images
        self._equal: list[bytes] = []  # of each batch the print that all of it share, or none
        self.labelled: list[tuple[NDArray[np.float32], int]] = []  # small copies and their labels
        # the same of images that are smaller than a copy
        self.tiny: list[tuple[NDArray[np.float32], int]] = []

    @property
    def draws(self) -> bool:
        """Whether images are kept to be drawn."""
        return self._drawn > 0

    def add(self, column: BatchColumn, spots: list[Spotted], *, finite: bool) -> None:
        """Take in the images of a batch; `finite`: it holds no NaN and no Inf."""
        prints: list[bytes] = []
        if isinstance(column.values, Tensor):
            prints = self._add_batch(column.values, spots, finite=finite)
        else:
            for image, spot in zip(column.values, spots, strict=False):
                if isinstance(image, Tensor) and image.numel():
                    prints += self._add_batch(image[None], [spot], finite=finite)
        if len({spot.index for spot in spots if spot.index is not None}) > 1 < len(prints):
            self._equal.append(prints[0] if len(set(prints)) == 1 else b"")

    def _add_batch(self, batch: Tensor, spots: list[Spotted], *, finite: bool) -> list[bytes]:
        if not batch.numel():
            return []
        copies = copy_images(batch)
        self.latest = copies.sketches
        self.pixels.add(batch, spots)
        if batch.dim() == 5:
            self.pixels.add_clips(batch)
        self.pixels.add_means(copies.pooled.mean((2, 3)), spots)
        self._remember(batch, copies, spots)
        for share, grounds in self._grounds.items():
            grounds.update(_list_grounds(copies, share))
        broken = [False] * len(batch) if finite else _find_nonfinite(batch)
        for i, spot in enumerate(spots[: len(batch)]):
            if broken[i]:
                self._note("nonfinite", spot, batch[i], spot)
            elif copies.single[i] and is_single(batch[i]):
                self._note("constant", spot, batch[i], spot)
                self._blanks[_round(copies.low[i]), _round(copies.high[i])] += 1
            else:
                self._compare(batch[i], spot, copies, i)
                self.pixels.add_range(spot.label, copies.low[i], copies.high[i])
                self.pixels.add_peak(copies.low[i], copies.high[i])
                if spot.label is not None and len(self.features) < FEATURES:
                    self.features.append((copies.features[i], spot.label))
                    self.places.append(spot)
            self._keep(batch[i], spot)
        return copies.prints

    def _remember(self, batch: Tensor, copies: Copies, spots: Sequence[Spotted]) -> None:
        """Keep what is compared later: with the neighbours, with the files, between the classes."""
        if batch.dim() != 4 or min(batch.shape[-2:]) < TINY:
            return
        if min(batch.shape[-2:]) < SIDE:
            pairs = zip(copies.pooled, spots, strict=False)
            some = [(pooled, spot.label) for pooled, spot in pairs if spot.label is not None]
            self.tiny += some[: MOST - len(self.tiny)]
            return
        for i, spot in enumerate(spots[: min(len(batch), SKETCHES - len(self.sketches))]):
            if copies.single[i]:
                continue
            self.sketches.append((spot, copies.sketches[i]))
            ends = copies.tops[i], copies.bottoms[i]
            if batch.dtype.is_floating_point or batch.dtype is torch.uint8:
                self.seen.append(Seen(spot.name, spot.index, copies.sketches[i], *ends))
            if spot.label is not None and len(self.labelled) < MOST:
                self.labelled.append((copies.pooled[i], spot.label))

    def _keep(self, image: Tensor, spot: Spotted) -> None:
        """Keep a small copy, of each class about as many: a rarer class takes the place of a
        frequent one.
        """
        if not self._drawn:
            return
        if len(self.thumbnails) >= self._drawn:
            label, most = self._per_class.most_common(1)[0]
            if most - 1 <= self._per_class[spot.label]:
                return
            latest = max(i for i, t in enumerate(self.thumbnails) if t.spot.label == label)
            del self.thumbnails[latest]
            self._per_class[label] -= 1
        self._per_class[spot.label] += 1
        self.thumbnails.append(Thumbnail(shrink(image), spot))

    def _compare(self, image: Tensor, spot: Spotted, copies: Copies, i: int) -> None:
        print_, key, sketch = copies.prints[i], copies.keys[i], copies.sketches[i]
        earlier = self.prints.get(print_)
        exact = earlier is not None
        if earlier is None and key:
            earlier = self.album.find(key, sketch)
        if earlier is not None and not _is_same(earlier, spot):
            self._counts["repeated" if exact else "similar"] += 1
            if earlier.label != spot.label:
                self._counts["contradicting"] += 1
            self._counts["worded"] += self._find_text(earlier) != self._find_text(spot)
            self._note(
                "duplicates", SamePicture(first=earlier, second=spot, exact=exact), image, spot
            )
        if earlier is None and len(self.prints) < FINGERPRINTS:
            self.prints[print_] = spot
            self.album.add(key, sketch, spot)

    def _find_text(self, spot: Spotted) -> int | None:
        return self.texts.get((spot.batch, spot.position))

    def _note(self, kind: str, what: Any, image: Tensor, spot: Spotted) -> None:
        self._counts[kind] += 1
        if len(self._found[kind]) < NAMED:
            self._found[kind].append(what)
            if self._drawn:
                self.suspects.append(Thumbnail(shrink(image), spot))

    def describe(self, **more: Any) -> Images:
        """What was met, as plain data."""
        named = [spot.name for spot in self._found["constant"] if spot.name]
        files = [(name, getattr(open_picture(name), "mode", "")) for name in named]
        return Images(
            constant=tuple(self._found["constant"]),
            constants=self._counts["constant"],
            nonfinite=tuple(self._found["nonfinite"]),
            nonfinites=self._counts["nonfinite"],
            duplicates=tuple(self._found["duplicates"]),
            repeated=self._counts["repeated"],
            similar=self._counts["similar"],
            contradicting=self._counts["contradicting"],
            repeats=Repeats(
                worded=self._counts["worded"],
                equal_batches=sum(map(bool, self._equal)) if len(set(self._equal)) > 1 else 0,
                batches=len(self._equal),
            ),
            blanks=Blanks(
                bounds=tuple((*bounds, n) for bounds, n in self._blanks.most_common(NAMED)),
                grounds=tuple(
                    (value, self._grounds[GROUNDS[0]][value], n)
                    for value, n in self._grounds[GROUNDS[1]].most_common(NAMED)
                ),
                unopened=tuple(name for name, mode in files if not mode),
                deep=sum(mode.startswith("I") for _, mode in files),
            ),
            **more,
        )


def _list_grounds(copies: Copies, share: float) -> Iterator[float]:
    """The values that fill such a share of an image beside others: the ground of slides and
    scans.
    """
    ends = (copies.sketches < EDGE, copies.low), (copies.sketches > 1 - EDGE, copies.high)
    for at_end, values in ends:
        for i in np.flatnonzero(at_end.mean(1) >= share):
            if not copies.single[i]:
                yield _round(values[i])


def _round(value: float) -> float:
    return round(value, 4)


def _is_same(earlier: Spotted, spot: Spotted) -> bool:
    """Whether it is one sample, drawn again."""
    return earlier.index is not None and earlier.index == spot.index


def _find_nonfinite(batch: Tensor) -> list[bool]:
    finite = batch.detach().isfinite().flatten(1).all(1)
    return [not each for each in finite.tolist()]


def is_single(image: Tensor) -> bool:
    """Whether an image has a single colour: one value in each of its channels. Rows and features
    are no channels.
    """
    flat = image.detach().flatten(1) if image.dim() > 2 else image.detach().reshape(1, -1)
    return bool((flat == flat[:, :1]).all())
