"""Marks that tell a class: an edge that stands at one place in nearly all images of one class, and
in hardly one of the others.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnnprobe.data.clues import Mark

FEWEST = 20  # images of the class, and of all others
MOST = 512  # images that are compared
SHARED, MET = 0.9, 0.1  # of the class, and of the others, that have the edge
STEADY = 1.5  # mean of an edge over its std, in the class
LOOSE = 0.8  # the same of nearly all other places: motifs that are aligned have more of them
NEARLY_ALL = 0.95
ROUND = 2  # places of the small copy around the mark that are its own
LARGEST = 0.15  # of the image
Labelled = tuple[NDArray[np.float32], int]  # a small copy, (C, S, S), and its class


def find_marks(samples: Sequence[Labelled]) -> tuple[Mark, ...]:
    """The mark of each class that has one.

    Args:
        samples: small copies of the images, all of one shape, with their classes.
    """
    chosen = samples[:MOST]
    if len({pooled.shape for pooled, _ in chosen}) != 1:
        return ()
    labels = np.array([label for _, label in chosen])
    classes, counts = np.unique(labels, return_counts=True)
    enough = np.minimum(counts, len(labels) - counts) >= FEWEST
    if not enough.any():
        return ()
    edges = _list_edges(np.stack([pooled for pooled, _ in chosen]))
    steady = [_measure_steadiness(edges[labels == label]) for label in classes[enough]]
    # Where another class has its own edges all over, place is what tells the classes by nature: the
    # pitch in a spectrogram, say.
    if not all(map(_is_local, steady)):
        return ()
    pairs = zip(steady, classes[enough], strict=True)
    found = (_find_mark(edges, each, labels == label, int(label)) for each, label in pairs)
    return tuple(mark for mark in found if mark is not None)


def _list_edges(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The steps to the right and down from each place, (N, 2 * C, S - 1, S - 1)."""
    right, down = np.diff(images, axis=3)[:, :, :-1], np.diff(images, axis=2)[:, :, :, :-1]
    return np.concatenate([right, down], axis=1)


def _measure_steadiness(ours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of each edge over its std."""
    mean, std = ours.mean(0), ours.std(0)
    measured = np.abs(mean) / np.maximum(std, 1e-6 + 1e-3 * float(np.abs(mean).max()))
    return np.asarray(measured)


def _is_local(steady: NDArray[np.float32]) -> bool:
    """Whether the images of a class share edges at one small place at most."""
    highest = steady.max(0)
    spot = highest >= STEADY
    if not spot.any():
        return bool(np.quantile(highest, NEARLY_ALL) <= LOOSE)
    rows, columns = np.flatnonzero(spot.any(1)), np.flatnonzero(spot.any(0))
    around = (slice(max(0, rows[0] - ROUND), rows[-1] + ROUND + 1),
              slice(max(0, columns[0] - ROUND), columns[-1] + ROUND + 1))  # fmt: skip
    elsewhere = np.ones_like(spot)
    elsewhere[around] = False
    area = len(range(rows[0], rows[-1] + 1)) * len(range(columns[0], columns[-1] + 1))
    is_small = area <= LARGEST * highest.size
    return is_small and bool(np.quantile(highest[elsewhere], NEARLY_ALL) <= LOOSE)


def _find_mark(
    edges: NDArray[np.float32], steady: NDArray[np.float32], own: NDArray[np.bool_], label: int
) -> Mark | None:
    step, row, column = map(int, np.unravel_index(int(steady.argmax()), steady.shape))
    if steady[step, row, column] < STEADY:
        return None
    highest = steady.max(0)
    side = len(highest)
    spot = highest >= STEADY
    rows, columns = np.flatnonzero(spot.any(1)), np.flatnonzero(spot.any(0))
    # At half its height, and with its sign: nearly all of the class have it.
    height = float(edges[own, step, row, column].mean())
    has = edges[:, step, row, column] * np.sign(height) > abs(height) / 2
    shared, met = float(has[own].mean()), float(has[~own].mean())
    if shared < SHARED or met > MET:
        return None
    size = side + 1  # of the small copy: an edge stands between two of its places
    ends = (int(columns[0]), int(rows[0]), int(columns[-1]) + 2, int(rows[-1]) + 2)
    left, top, right, bottom = (each / size for each in ends)
    return Mark(
        label=label, images=int(own.sum()), share=shared, others=int((~own).sum()), met=met,
        box=(left, top, right, bottom),
    )  # fmt: skip
