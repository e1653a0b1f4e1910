"""Whether the images of one split are turned against those of the other."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnprobe.data.clues import Turned
from cnnprobe.data.information import measure_transfer

FEWEST, FEWEST_UNSEEN = 100, 40  # images of the training and of the validation
PLACES = 8  # along each dim, of what the model sees
FOUND, LOST = 0.8, 0.5  # of what the model tells: of turned images, and of those as they are
Labelled = tuple[NDArray[np.float32], int]  # a small copy, (C, S, S), and its class
_TURNS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "": lambda images: images,
    "transposed, rows for columns": lambda images: images.swapaxes(-1, -2),
    "flipped left to right": lambda images: images[..., ::-1],
    "flipped top to bottom": lambda images: images[..., ::-1, :],
    "turned by 180 degrees": lambda images: images[..., ::-1, ::-1],
    "turned by 90 degrees": lambda images: np.rot90(images, 1, (-2, -1)),
    "turned by 270 degrees": lambda images: np.rot90(images, 3, (-2, -1)),
    "transposed about their other diagonal": lambda images: images[..., ::-1, ::-1].swapaxes(
        -1, -2
    ),
}


def find_turned(training: Sequence[Labelled], validation: Sequence[Labelled] = ()) -> Turned | None:
    """How the images of the validation must be turned so that a simple model of the training tells
    them as well as its own; None where it tells them as they are, or in no way.

    Args:
        training: small copies of the images, with their classes.
        validation: the same.

    A linear regression of the indicators of the classes, on the values at 8 x 8 places, is judged
    on unseen images of the training, then on those of the validation in each of the eight positions
    of a square.
    """
    if len(training) < FEWEST or len(validation) < FEWEST_UNSEEN:
        return None
    if len({pooled.shape for pooled, _ in (*training, *validation)}) != 1:
        return None
    images, theirs = (np.stack([p for p, _ in each]) for each in (training, validation))
    labels, unseen = ([k for _, k in each] for each in (training, validation))
    turned = [_shrink(turn(theirs)) for turn in _TURNS.values()]
    shares = measure_transfer(_shrink(images), labels, turned, unseen)
    if shares is None:
        return None
    known, (own, *others) = shares
    best = max(others)
    if best < FOUND * known or own > LOST * best:
        return None
    turn = list(_TURNS)[1 + others.index(best)]
    return Turned(turn=turn, images=len(unseen), known=known, own=own, best=best)


def _shrink(images: NDArray[Any]) -> NDArray[np.float64]:
    """The means at PLACES x PLACES places, a row of each image."""
    count, channels, side = images.shape[:3]
    cell = side // PLACES
    parts = images.reshape(count, channels, PLACES, cell, PLACES, cell).mean((3, 5))
    return np.asarray(parts.reshape(count, -1), dtype=np.float64)
