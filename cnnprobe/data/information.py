"""Whether labels say anything about the images: whether simple models of small copies tell them
better than shuffled labels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cnnprobe.data.facts import Exchange

Sample = tuple[NDArray[np.float32], int]  # the features of an image, and its class
FEWEST_LABELLED, FEWEST_UNSEEN = 100, 40  # images of the training and of the validation
LEAST_MOVED = 16  # images of the validation in classes whose numbers are exchanged
FEWEST = 256  # images, below which nothing is said
PER_CLASS = 8  # images of a class, on average, below which nothing is said
MOST = 512  # images that are compared
FOLDS = 5
TOLD = 0.6  # of a class: a class that the model tells well
TAKEN = 0.7  # of the images of a label, that are taken for one such class
CONFUSED = 0.2  # of the same label's in the training, that are too: classes that are alike
RIDGE = 10.0  # of the regression, on standardised features
NOISE = 0.5  # of the kernel regression, whose kernel is 1 on its diagonal
SHUFFLES = 99  # of the labels; fewer where there are many classes
LEAST_SHUFFLES = 19
COLUMNS = 2000  # classes times shuffles
SURE = 4.0  # standard deviations above chance, from which on no shuffles are needed


def measure_chance(samples: Sequence[Sample]) -> float | None:
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
    linear = predict_linear(x, folds)
    if is_sure(float(_count_hits([linear], y[:, None], len(classes))[0]), y):
        return 1 / (SHUFFLES + 1)
    count = max(LEAST_SHUFFLES, min(SHUFFLES, COLUMNS // len(classes)))
    shuffled = np.stack([y, *(random.permutation(y) for _ in range(count))], axis=1)
    hits = _count_hits([linear, predict_kernel(x, folds)], shuffled, len(classes))
    # But for rounding: what is as good as the given labels counts as such.
    return float((hits >= hits[0] - 1e-6).sum() / len(hits))


def find_exchange(training: Sequence[Sample], validation: Sequence[Sample] = ()) -> Exchange | None:
    """Classes of the validation that a model of the training's small copies tells by other numbers;
    None where there are none, or too few images to say so.

    A linear regression of the indicators of the classes is judged on unseen images of the training,
    then on those of the validation.
    """
    if len({len(f) for f, _ in (*training, *validation)}) != 1 or len(training) < FEWEST_LABELLED:
        return None
    random = np.random.default_rng(0)
    chosen = [training[i] for i in random.permutation(len(training))[:MOST]]
    classes, y = np.unique([label for _, label in chosen], return_inverse=True)
    unseen = [(f, np.searchsorted(classes, k)) for f, k in validation if k in classes]
    if len(classes) < 2 or len(unseen) < FEWEST_UNSEEN or len(y) < PER_CLASS * len(classes):
        return None
    x = np.stack([f for f, _ in chosen]).astype(np.float64)
    mean, std = x.mean(0), np.maximum(x.std(0), 1e-9)
    x, z = (x - mean) / std, (np.stack([f for f, _ in unseen]) - mean) / std
    targets = np.eye(len(classes))[y] - np.bincount(y, minlength=len(classes)) / len(y)
    crossed = multiply(predict_linear(x, np.arange(len(y)) % FOLDS), targets).argmax(1)
    hits = int((crossed == y).sum())
    if not is_sure(hits, y):
        return None
    gram = multiply(x.T, x) + RIDGE * np.eye(x.shape[1])
    guessed = multiply(z, solve(gram, multiply(x.T, targets))).argmax(1)
    met = _count_met(np.array([label for _, label in unseen]), guessed, len(classes))
    whole = _name_exchange(met, classes, hits / len(y))
    if whole is not None and whole.known >= TOLD:
        return whole
    return _name_trusted(met, _count_met(y, crossed, len(classes)), classes) or whole


def measure_transfer(
    images: NDArray[np.float64],
    labels: Sequence[int],
    others: Sequence[NDArray[np.float64]],
    unseen: Sequence[int],
) -> tuple[float, list[float]] | None:
    """The share of unseen images that a linear regression of the training tells, and its share of
    each of several versions of the validation; None where it cannot be believed.

    Args:
        images: of the training, a row of features each.
        labels: their classes.
        others: versions of the images of the validation, in the same features.
        unseen: their classes.
    """
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2 or len(y) < PER_CLASS * len(classes):
        return None
    mean, std = images.mean(0), np.maximum(images.std(0), 1e-9)
    x = (images - mean) / std
    targets = np.eye(len(classes))[y] - np.bincount(y, minlength=len(classes)) / len(y)
    crossed = multiply(predict_linear(x, np.arange(len(y)) % FOLDS), targets).argmax(1)
    hits = int((crossed == y).sum())
    if not is_sure(hits, y):
        return None
    weights = solve(multiply(x.T, x) + RIDGE * np.eye(x.shape[1]), multiply(x.T, targets))
    guessed = (multiply((each - mean) / std, weights).argmax(1) for each in others)
    return hits / len(y), [float((classes[guess] == unseen).mean()) for guess in guessed]


def _count_met(
    labels: NDArray[np.int64], guessed: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """How often each label was guessed as each class."""
    met = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(met, (labels, guessed), 1)
    return met


def _name_trusted(
    met: NDArray[np.int64], known: NDArray[np.int64], classes: NDArray[np.int64]
) -> Exchange | None:
    """The exchange among the classes that the model tells well, where it knows too little of the
    others: labels of which nearly all images are taken for such a class, for which the model
    hardly takes that label's in the training. None where more of them stay than move.

    Args:
        met: of the validation, by label and by guess.
        known: of unseen images of the training, the same.
        classes: the label of each row.
    """
    own, rows = known.diagonal(), known.sum(1)
    trusted = (own >= TOLD * rows) & (rows >= PER_CLASS)
    best, counts = met.argmax(1), met.sum(1)
    clear = (counts >= PER_CLASS) & (met.max(1) >= TAKEN * counts) & trusted[best]
    pairs = [(int(v), int(best[v])) for v in np.flatnonzero(clear)]
    moved = [(v, t) for v, t in pairs if v != t and known[v, t] <= CONFUSED * rows[v]]
    firsts, seconds = [v for v, _ in moved], [t for _, t in moved]
    total = int(counts[firsts].sum())
    is_plain = len(moved) > 1 and len(set(seconds)) == len(moved) and total >= LEAST_MOVED
    if not is_plain or 2 * len(moved) <= len(pairs):
        return None
    return Exchange(
        labels=tuple((int(classes[v]), int(classes[t])) for v, t in moved),
        images=total,
        known=float(own[seconds].sum() / rows[seconds].sum()),
        own=float(met[firsts, firsts].sum() / total),
        exchanged=float(met[firsts, seconds].sum() / total),
    )


def _name_exchange(
    met: NDArray[np.int64], classes: NDArray[np.int64], known: float
) -> Exchange | None:
    """The labels whose images are mostly taken for those of one other class each."""
    best, counts = met.argmax(1), met.sum(1)
    moved = np.flatnonzero((counts > 0) & (best != np.arange(len(met))))
    total = int(counts[moved].sum())
    if (
        len(moved) < 2
        or len(set(best[counts > 0])) < int((counts > 0).sum())
        or total < LEAST_MOVED
    ):
        return None
    return Exchange(
        labels=tuple((int(classes[i]), int(classes[best[i]])) for i in moved),
        images=total,
        known=known,
        own=float(met[moved, moved].sum() / total),
        exchanged=float(met[moved, best[moved]].sum() / total),
    )


def is_sure(hits: float, y: NDArray[np.int64]) -> bool:
    """Whether so many labels are told right that chance does not do so."""
    share = np.bincount(y).max() / len(y)
    return bool(hits - share * len(y) > SURE * np.sqrt(len(y) * share * (1 - share)))


def predict_linear(x: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """The matrix that makes predictions of labels: each row from the samples of the other folds.

    One factorisation serves all folds: with H = X (X'X + RIDGE)^-1 X', the fold f is predicted from
    the others by (1 - H_ff)^-1 H_f.

    Source: Hastie, Tibshirani, Friedman 2009, "The Elements of Statistical Learning", section 7.10.
    """
    gram = multiply(x.T, x) + RIDGE * np.eye(x.shape[1])
    hat = multiply(x, solve(gram, np.ascontiguousarray(x.T)))
    found = np.zeros((len(x), len(x)))
    for fold in range(FOLDS):
        seen, unseen = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        own = np.eye(len(unseen)) - hat[np.ix_(unseen, unseen)]
        found[np.ix_(unseen, seen)] = solve(own, hat[np.ix_(unseen, seen)])
    return found


def predict_kernel(x: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same by a regression with a Gaussian kernel as wide as the median distance."""
    squares = (x**2).sum(1)
    apart = np.maximum(squares[:, None] + squares - 2 * multiply(x, x.T), 0)
    kernel: NDArray[np.float64] = np.exp(-apart / max(float(np.median(apart)), 1e-9))
    found = np.zeros_like(kernel)
    for fold in range(FOLDS):
        seen, unseen = folds != fold, folds == fold
        gram = kernel[np.ix_(seen, seen)] + NOISE * np.eye(int(seen.sum()))
        found[np.ix_(unseen, seen)] = solve(gram, kernel[np.ix_(seen, unseen)]).T
    return found


def solve(matrix: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """By torch, which keeps to its number of threads, as NumPy does not."""
    return np.asarray(torch.linalg.solve(*map(torch.from_numpy, (matrix, right))).numpy())


def multiply(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product of two matrices, by torch."""
    a, b = (np.ascontiguousarray(each) for each in (a, b))
    return np.asarray((torch.from_numpy(a) @ torch.from_numpy(b)).numpy())


def _count_hits(
    predictions: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """How many labels are told right, by all models together, each class for as much as another;
    one number a column of labels.
    """
    weights = len(labels) / classes / np.bincount(labels[:, 0], minlength=classes)
    indicators = np.eye(classes)[labels] - np.bincount(labels[:, 0], minlength=classes) / len(
        labels
    )
    flat = indicators.reshape(len(labels), -1)
    hits = np.zeros(labels.shape[1])
    for predict in predictions:
        guessed = multiply(predict, flat).reshape(len(labels), -1, classes)
        hits += np.where(guessed.argmax(2) == labels, weights[labels], 0).sum(0)
    return hits
