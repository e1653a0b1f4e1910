"""Samples of the validation that the training has too: by index, by file, by what the images
hold.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from torch.utils.data import Subset

from cnnprobe.data.copies import SIDE, list_keys
from cnnprobe.data.datasets import find_file, find_root
from cnnprobe.data.facts import Leak, Split
from cnnprobe.data.images import NAMED, ImageTally
from cnnprobe.data.sequences import find_by_sequence
from cnnprobe.data.source import Source, choose_samples
from cnnprobe.data.spots import SamePicture, Spotted
from cnnprobe.data.tables import find_by_row

FILES = 20_000  # of a data set that are looked at


class Read(Protocol):
    """What was read of a split."""

    split: Split
    source: Source
    images: ImageTally


def find_leaks(training: Read, validation: Read) -> tuple[Leak, ...]:
    """What was found, in the order of the ways; by index where both come from one data set, by file
    where they have files.
    """
    found = [_find_by_index(training.source, validation.source)]
    found.append(_find_by_file(training.source, validation.source))
    found.append(_find_by_content(training, validation))
    found.append(
        find_by_sequence(
            training.images.sketches,
            validation.images.sketches,
            training.source,
            validation.source,
        )
    )
    found.append(find_by_row(training.images.rows, validation.images.rows))
    return tuple(leak for leak in found if leak is not None and leak.count)


def _list_roots(source: Source) -> list[tuple[int, int]]:
    """The samples of an epoch: id of the user's data set that keeps each, and its index there."""
    if not source.is_indexed:
        return []
    given = source.given.dataset if source.loader is not None else source.given
    chosen = range(len(given))
    if source.loader is not None:
        drawn = choose_samples(given, source.given.sampler)
        if drawn is None:
            return []
        chosen = list(drawn)  # type: ignore[assignment]
    if isinstance(given, Subset) and not isinstance(given.dataset, Subset):
        return [(id(given.dataset), int(given.indices[i])) for i in chosen]
    roots = (find_root(given, i) for i in chosen)
    return [(id(root), index) for root, index in roots]


def _find_by_index(training: Source, validation: Source) -> Leak | None:
    theirs = _list_roots(validation)
    ours = {sample: i for i, sample in enumerate(_list_roots(training))} if theirs else {}
    shared = [(i, sample[1]) for i, sample in enumerate(theirs) if sample in ours]
    if not shared:
        return None
    pairs = [
        SamePicture(
            first=Spotted(batch=0, position=0, index=index),
            second=Spotted(batch=0, position=0, index=index),
        )
        for _, index in shared[:NAMED]
    ]
    return Leak(
        pairs=tuple(pairs), count=len(shared), among=len(theirs), by="index",
        share=len(shared) / len(theirs),
    )  # fmt: skip


def _list_files(source: Source) -> dict[str, int]:
    if not source.is_indexed or len(source.dataset) > FILES:
        return {}
    drawn: Iterable[int] | None = range(len(source.dataset))
    if source.loader is not None:
        drawn = choose_samples(source.dataset, source.given.sampler)
    named = ((find_file(source.dataset, i), i) for i in drawn or ())
    return {str(Path(name).resolve()): i for name, i in named if name and Path(name).is_file()}


def _find_by_file(training: Source, validation: Source) -> Leak | None:
    """Files of equal content, also under other names; only those of equal size are read."""
    theirs = _list_files(validation)
    ours = _list_files(training) if theirs else {}
    if not ours or set(map(id, _roots(training))) & set(map(id, _roots(validation))):
        return None  # two parts of one data set are compared by index
    sizes: dict[int, list[str]] = {}
    for path in ours:
        sizes.setdefault(Path(path).stat().st_size, []).append(path)
    hashed: dict[int, dict[bytes, str]] = {}
    pairs = []
    for path in theirs:
        size = Path(path).stat().st_size
        if not size or size not in sizes:
            continue
        if size not in hashed:
            hashed[size] = {_hash_file(each): each for each in sizes[size]}
        if twin := hashed[size].get(_hash_file(path)):
            pairs.append(_pair_files(twin, ours, path, theirs))
    return Leak(
        pairs=tuple(pairs[:NAMED]), count=len(pairs), among=len(theirs), by="file",
        share=len(pairs) / len(theirs),
    )  # fmt: skip


def share_transform(training: Source, validation: Source) -> bool:
    """Whether one data set of the user's, with one transform, is behind both splits."""
    if not (training.is_indexed and validation.is_indexed):
        return False
    both = [next(iter(_roots(source))) for source in (training, validation)]
    held = (getattr(both[0], name, None) for name in ("transform", "transforms"))
    return both[0] is both[1] and any(each is not None for each in held)


def _roots(source: Source) -> Iterable[object]:
    given = source.given.dataset if source.loader is not None else source.given
    yield find_root(given, 0)[0] if len(given) else given


def _hash_file(path: str) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()


def _pair_files(twin: str, ours: dict[str, int], path: str, theirs: dict[str, int]) -> SamePicture:
    return SamePicture(
        first=Spotted(batch=0, position=0, index=ours[twin], name=twin),
        second=Spotted(batch=0, position=0, index=theirs[path], name=path),
    )


def _find_by_content(training: Read, validation: Read) -> Leak | None:
    """Images that were read of both; the share of all is estimated from the part of the training
    that was read.
    """
    pairs = []
    for key, spot in validation.images.prints.items():
        if key in training.images.prints:
            pairs.append(SamePicture(first=training.images.prints[key], second=spot))
    pairs += _list_similar(training.images, validation.images)
    read, there = training.split.samples, training.split.loading.samples
    coverage = min(1.0, read / there) if read and there else 1.0
    among = max(1, len(validation.images.prints))
    share = min(1.0, len(pairs) / among / max(coverage, 1e-9))
    return Leak(
        pairs=tuple(pairs[:NAMED]), count=len(pairs), among=among, by="content", share=share
    )


def _list_similar(training: ImageTally, validation: ImageTally) -> Sequence[SamePicture]:
    pairs = []
    exact = {id(validation.prints[key]) for key in validation.prints if key in training.prints}
    for key, sketch, spot in validation.album:
        twin = training.album.find(key, sketch)
        if twin is None:
            mirrored = sketch.reshape(SIDE, SIDE)[:, ::-1].reshape(1, -1)
            twin = training.album.find(list_keys(mirrored)[0], mirrored[0])
        if twin is not None and id(spot) not in exact:
            pairs.append(SamePicture(first=twin, second=spot, exact=False))
    return pairs
