"""Whether some labels are wrong by chance: a simple model is as often wrong where it is sure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnprobe.data.clues import Noise
from cnnprobe.data.information import FOLDS, PER_CLASS, is_sure, multiply, predict_kernel
from cnnprobe.data.spots import Spotted

Sample = tuple[NDArray[np.float32], int]  # the features of an image, and its class
FEWEST = 300  # images, below which nothing is said
MOST = 384  # images that are compared: solving takes the cube of their number
FEWEST_CLASSES = 4  # with fewer, images of two kinds look the same
SUREST, SURE = (0.1, 0.25), 0.5  # of the images, where the model is surest of its class
CLEAN = 0.95  # of the surest that a model tells where labels are right
FLAT = 0.82  # of the share of the surest: where labels are hard, the share of all is far lower
ERRORS = 3.0  # standard errors
ONE_OTHER = 0.6  # of the wrong labels of a class: two classes that look the same
FEWEST_WRONG = 20  # among those where the model is sure
NAMED = 8
CHANCES = 2.0  # times the share of the largest class


def find_noise(samples: Sequence[Sample], spots: Sequence[Spotted]) -> Noise | None:
    """The share of the images that a kernel regression tells, of those where it is surest and of
    all; None where that is no sign of wrong labels.

    Args:
        samples: the features of each image, all of one length, and its class.
        spots: where each stands.

    Where labels are right, a model is hardly ever wrong where it is surest, and more often
    elsewhere. Where some are drawn by chance, it is as often wrong where it is surest, and the
    labels that it misses there are those of all other classes.

    Source: Northcutt, Jiang and Chuang 2021, "Confident Learning", arXiv:1911.00068, section 3.
    """
    if len(samples) < FEWEST or len({len(f) for f, _ in samples}) != 1:
        return None
    chosen = np.random.default_rng(0).permutation(len(samples))[:MOST]
    classes, y = np.unique([samples[i][1] for i in chosen], return_inverse=True)
    if len(classes) < FEWEST_CLASSES or len(y) < PER_CLASS * len(classes):
        return None
    told = _tell(np.stack([samples[i][0] for i in chosen]), y, len(classes))
    *surest, sure = (told.order[: int(share * len(y))] for share in (*SUREST, SURE))
    known = max(float(told.right[each].mean()) for each in surest)
    whole = float(told.right.mean())
    error = float(np.sqrt(known * (1 - known) / len(surest[-1])))
    largest = float(np.bincount(y).max() / len(y))
    wrong = [int(k) for k in sure if not told.right[k]]
    is_flat = known + ERRORS * error < CLEAN and whole >= FLAT * known
    is_good = is_sure(int(told.right.sum()), y) and known >= CHANCES * largest
    if not (is_flat and is_good) or len(wrong) < FEWEST_WRONG or _is_of_pairs(told, y, wrong):
        return None
    examples = ((spots[chosen[k]], int(classes[told.guessed[k]])) for k in wrong[:NAMED])
    return Noise(
        images=len(y), surest=known, whole=whole, half=float(told.right[sure].mean()),
        examples=tuple(examples),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Told:
    """What a model makes of unseen images."""

    guessed: NDArray[np.int64]
    right: NDArray[np.bool_]
    order: NDArray[np.int64]  # of the images, the surest first


def _tell(rows: NDArray[np.float32], y: NDArray[np.int64], classes: int) -> _Told:
    x = rows.astype(np.float64)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    targets = np.eye(classes)[y] - np.bincount(y, minlength=classes) / len(y)
    scores = multiply(predict_kernel(x, np.arange(len(y)) % FOLDS), targets)
    best = np.sort(scores, axis=1)
    guessed = scores.argmax(1)
    return _Told(guessed, guessed == y, np.argsort(best[:, -2] - best[:, -1], kind="stable"))


def _is_of_pairs(told: _Told, y: NDArray[np.int64], wrong: Sequence[int]) -> bool:
    """Whether the wrong labels of each class are mostly those of one other."""
    met: dict[int, list[int]] = {}
    for k in wrong:
        met.setdefault(int(told.guessed[k]), []).append(int(y[k]))
    most = sum(int(np.bincount(labels).max()) for labels in met.values())
    return most > ONE_OTHER * len(wrong)
