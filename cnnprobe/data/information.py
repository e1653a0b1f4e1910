"""Whether labels say anything about the images: whether simple models of small copies tell them
better than shuffled labels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST = 400  # images, below which nothing is said
PER_CLASS = 8  # images of a class, on average, below which nothing is said
MOST = 512  # images that are compared
FOLDS = 5
RIDGE = 10.0  # of the regression, on standardised features
NOISE = 0.5  # of the kernel regression, whose kernel is 1 on its diagonal
SHUFFLES = 99  # of the labels; fewer where there are many classes
LEAST_SHUFFLES = 19
COLUMNS = 2000  # classes times shuffles
SURE = 4.0  # standard deviations above chance, from which on no shuffles are needed


def measure_chance(samples: Sequence[tuple[NDArray[np.float32], int]]) -> float | None:
    """The share of shuffled labels, with the given ones, that two models tell as well as those:
    small where the labels say something.

    Args:
        samples: the features of each image, all of one length, and its class.

    Returns:
        The p of a permutation test, in (0, 1]; None where there are too few images, or a single
        class.

    The models, a linear regression and a kernel regression of the indicators of the classes, are
    judged on images that they have not seen.

    Source: Ojala and Garriga 2010, "Permutation Tests for Studying Classifier Performance", JMLR
    11, test 1; Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", sections
    4.2 and 5.8.
    """
    if len(samples) < FEWEST or len({len(f) for f, _ in samples}) != 1:
        return None
    random = np.random.default_rng(0)
    chosen = random.permutation(len(samples))[:MOST]
    classes, y = np.unique([samples[i][1] for i in chosen], return_inverse=True)
    if len(classes) < 2 or len(y) < PER_CLASS * len(classes):
        return None
    x = np.stack([samples[i][0] for i in chosen]).astype(np.float64)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    folds = np.arange(len(y)) % FOLDS
    linear = _predict_linear(x, folds)
    if _is_sure(_count_hits([linear], y[:, None], len(classes))[0], y):
        return 1 / (SHUFFLES + 1)
    count = max(LEAST_SHUFFLES, min(SHUFFLES, COLUMNS // len(classes)))
    shuffled = np.stack([y, *(random.permutation(y) for _ in range(count))], axis=1)
    hits = _count_hits([linear, _predict_kernel(x, folds)], shuffled, len(classes))
    return float((hits >= hits[0]).sum() / len(hits))


def _is_sure(hits: int, y: NDArray[np.int64]) -> bool:
    share = np.bincount(y).max() / len(y)
    return bool(hits - share * len(y) > SURE * np.sqrt(len(y) * share * (1 - share)))


def _predict_linear(x: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """The matrix that makes predictions of labels: each row from the samples of the other folds."""
    found = np.zeros((len(x), len(x)))
    for fold in range(FOLDS):
        seen, unseen = x[folds != fold], x[folds == fold]
        gram = seen.T @ seen + RIDGE * np.eye(x.shape[1])
        found[np.ix_(folds == fold, folds != fold)] = unseen @ np.linalg.solve(gram, seen.T)
    return found


def _predict_kernel(x: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    squares = (x**2).sum(1)
    apart = np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0)
    kernel: NDArray[np.float64] = np.exp(-apart / max(float(np.median(apart)), 1e-9))
    found = np.zeros_like(kernel)
    for fold in range(FOLDS):
        seen, unseen = folds != fold, folds == fold
        gram = kernel[np.ix_(seen, seen)] + NOISE * np.eye(int(seen.sum()))
        found[np.ix_(unseen, seen)] = np.linalg.solve(gram, kernel[np.ix_(seen, unseen)]).T
    return found


def _count_hits(
    predictions: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """How many labels are told right, by all models together; one number a column of labels."""
    indicators = np.eye(classes)[labels] - np.bincount(labels[:, 0], minlength=classes) / len(
        labels
    )
    flat = indicators.reshape(len(labels), -1)
    hits = np.zeros(labels.shape[1], dtype=np.int64)
    for predict in predictions:
        guessed = (predict @ flat).reshape(len(labels), -1, classes)
        hits += (guessed.argmax(2) == labels).sum(0)
    return hits
