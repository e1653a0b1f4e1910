"""Whether labels say anything about the images: what a linear model of small grey copies makes of
them.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST = 200  # images, below which nothing is said
RIDGE = 1.0  # of the least squares, on features of unit size


def measure_information(samples: Sequence[tuple[NDArray[np.float32], int]]) -> float | None:
    """By how many standard deviations a linear model beats the most frequent class, on images that
    it has not seen.

    Args:
        samples: the features of each image, all of one length, and its class.

    Returns:
        The z of a binomial test; None where there are too few images, or a single class.

    Source: Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", section 4.2
    (regression of an indicator matrix).
    """
    features, labels = [f for f, _ in samples], [label for _, label in samples]
    classes, targets = np.unique(np.asarray(labels), return_inverse=True)
    if len(labels) < FEWEST or len(classes) < 2 or len({len(f) for f in features}) != 1:
        return None
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = np.stack(features)[order].astype(np.float64), targets[order]
    half = len(y) // 2
    hits = _count_hits(x[:half], y[:half], x[half:], y[half:], len(classes))
    hits += _count_hits(x[half:], y[half:], x[:half], y[:half], len(classes))
    chance = np.bincount(y).max() / len(y)
    return float((hits - chance * len(y)) / math.sqrt(len(y) * chance * (1 - chance)))


def _count_hits(
    x: NDArray[np.float64], y: NDArray[np.int64], seen: NDArray[np.float64], truth: NDArray[np.int64],
    classes: int,
) -> int:  # fmt: skip
    mean = x.mean(0)
    x, seen = x - mean, seen - mean
    one_hot = np.eye(classes)[y]
    weights = np.linalg.solve(
        x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (one_hot - one_hot.mean(0))
    )
    guessed = (seen @ weights + one_hot.mean(0)).argmax(1)
    return int((guessed == truth).sum())
