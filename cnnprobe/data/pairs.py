"""Whether pairs of images that are called different show the same class: by the pairs that are
called the same.
"""

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cnnprobe.data.clues import Pairs
from cnnprobe.data.columns import BatchColumn, join_samples
from cnnprobe.data.keeping import copy_dataset, kept_generators
from cnnprobe.data.source import JOINED, Source, spread

SIDE = 32  # pixels of a side by which images are told
MOST = 2048  # pairs that are kept
SECONDS = 3.0  # that further pairs are read
DEGREE = 3.0  # pairs called the same, of an image: what is connected at random is then one piece
LARGEST = 0.75  # of the images, in one piece
SMALL = 256  # images, of which further pairs are read where these are too few
FEWEST = 5  # wrong pairs
LEAST = 0.02  # of the pairs that are called different
Pair = tuple[bytes, bytes, float]


class PairTally:
    """Pairs of images, by fingerprints, and what they are called."""

    def __init__(self, roles: Mapping[str, str]) -> None:
        images = [path for path, role in roles.items() if role == "image"]
        self._images = tuple(images) if len(images) == 2 else ()
        told = [path for path, role in roles.items() if role in ("class", "value")]
        self._told = told[0] if len(told) == 1 else ""
        self._pairs: list[Pair] = []

    def add(self, columns: Mapping[str, BatchColumn]) -> None:
        """Take in a batch, or samples."""
        if not self._images or not self._told or len(self._pairs) >= MOST:
            return
        first, second = (columns[path].values for path in self._images)
        told = [_read_number(value) for value in columns[self._told].values]
        for a, b, called in zip(first, second, told, strict=False):
            if called is not None and isinstance(a, Tensor) and isinstance(b, Tensor):
                self._pairs.append((_print(a), _print(b), called))
        if len({called for _, _, called in self._pairs}) > 2:
            self._images = ()  # amounts, or classes of their own

    def describe(self, source: Source) -> Pairs | None:
        """What the pairs show; further ones are read where these raise a doubt."""
        values = sorted({called for _, _, called in self._pairs}) if self._images else []
        if len(values) != 2 or not self._raises_doubt(values):
            return None
        self._read_on(source)
        found = (_judge(self._pairs, same) for same in values)
        return next((each for each in found if each is not None), None)

    def _read_on(self, source: Source) -> None:
        if not source.is_indexed:
            return
        began = time.monotonic()
        with contextlib.suppress(Exception), kept_generators(source.given):
            dataset = copy_dataset(source.dataset)
            chosen = spread(len(dataset), MOST)
            while len(self._pairs) < MOST and not self._is_dense():
                known = len(set(self._pairs))
                for start in range(0, len(chosen), JOINED):
                    if time.monotonic() - began > SECONDS:
                        return
                    some = [dataset[i] for i in chosen[start : start + JOINED]]
                    self.add({column.path: column for column in join_samples(some)})
                if len(set(self._pairs)) == known:
                    return  # a list of pairs, which are always the same

    def _is_dense(self) -> bool:
        values = {called for _, _, called in self._pairs}
        return all(_measure_degree(self._pairs, same) >= DEGREE for same in values)

    def _raises_doubt(self, values: Sequence[float]) -> bool:
        """Whether pairs are wrong by either meaning, or are too few to tell."""
        few = len({a for a, _, _ in self._pairs}) <= SMALL and not self._is_dense()
        return few or all(count_wrong(self._pairs, same)[0] for same in values)


def _read_number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None


def _print(image: Tensor) -> bytes:
    step = max(1, min(image.shape[-2:]) // SIDE)
    some = np.ascontiguousarray(image.detach()[..., ::step, ::step].cpu().float().numpy())
    return hashlib.blake2b(some.tobytes(), digest_size=12).digest()


def hash_beside(
    columns: Iterable[BatchColumn], texts: Mapping[tuple[int, int], int], batch: int
) -> dict[tuple[int, int], int]:
    """A number of the images, and of the text, beside each image of a batch, by batch and
    position.
    """
    found = dict(texts)
    for column in columns:
        for i, image in enumerate(column.values):
            if isinstance(image, Tensor) and image.dim() >= 2:
                found[batch, i] = hash((found.get((batch, i)), _print(image)))
    return found


def count_wrong(pairs: Sequence[Pair], same: float) -> tuple[int, int]:
    """The pairs of another value whose two images are connected by pairs of the value `same`, and
    all of another value.

    >>> count_wrong([(b"a", b"b", 1), (b"b", b"c", 1), (b"a", b"c", 0), (b"a", b"d", 0)], 1)
    (1, 2)
    """
    pieces = _connect((a, b) for a, b, called in pairs if called == same)
    others = [(pieces.get(a, a), pieces.get(b, b)) for a, b, called in pairs if called != same]
    return sum(a == b for a, b in others), len(others)


def _connect(edges: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The piece of each node, as one of its nodes."""
    parents: dict[bytes, bytes] = {}

    def find(node: bytes) -> bytes:
        while parents.setdefault(node, node) != node:
            parents[node] = node = parents[parents[node]]
        return node

    for a, b in edges:
        parents[find(a)] = find(b)
    return {node: find(node) for node in tuple(parents)}


def _measure_degree(pairs: Sequence[Pair], same: float) -> float:
    """Pairs called the same of an image, on average."""
    nodes = {node for a, b, _ in pairs for node in (a, b)}
    return 2 * len({(a, b) for a, b, called in pairs if called == same}) / max(1, len(nodes))


def _judge(pairs: Sequence[Pair], same: float) -> Pairs | None:
    """What is wrong where a value means the same class: the images fall into several pieces, though
    there are so many such pairs that chance would connect them all.

    Source: Erdos and Renyi 1960, "On the evolution of random graphs": with more than one edge for
    each two nodes, one piece holds most of them.
    """
    pieces = _connect((a, b) for a, b, called in pairs if called == same)
    nodes = {node for a, b, _ in pairs for node in (a, b)}
    degree = _measure_degree(pairs, same)
    sizes = Counter(pieces.values()).most_common(2)
    if degree < DEGREE or len(sizes) < 2 or sizes[0][1] > LARGEST * len(nodes):
        return None
    wrong, among = count_wrong(pairs, same)
    if wrong < FEWEST or wrong <= LEAST * among:
        return None
    return Pairs(pairs=len(pairs), same=same, different=among, wrong=wrong)
