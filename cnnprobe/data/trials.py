"""Reads some samples again: whether they come out otherwise, and whether workers and epochs draw
the same random numbers.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cnnprobe.data.columns import join_samples, read_columns
from cnnprobe.data.facts import Trials
from cnnprobe.data.keeping import copy_dataset, copy_loader, kept_generators
from cnnprobe.data.source import Source

READINGS = 4  # of one sample in the same process
DRAWS = (
    8  # readings of one sample a worker: two workers agree by chance in one of 256 for flips alone
)
PATIENCE = 30.0  # seconds that a worker may take
_TURNS = {"left to right": (-1,), "top to bottom": (-2,), "by half a turn": (-1, -2)}


def try_again(source: Source, path: str, mask: str) -> Trials:
    """What further readings of one or two samples show; nothing where samples cannot be had one by
    one.

    Args:
        source: where they come from.
        path: of the images in a sample.
        mask: of the mask; "" where there is none.
    """
    if not source.is_indexed or not len(source.dataset):
        return Trials()
    try:
        with kept_generators(source.given), _quiet():
            random, apart = _read_repeatedly(source, path, mask)
            workers, epochs = _try_workers(source, path) if random else (None, None)
    except Exception:  # a trial that the user's code does not allow shows nothing
        return Trials()
    return Trials(random=random, workers_repeat=workers, epochs_repeat=epochs, apart=apart)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_repeatedly(source: Source, path: str, mask: str) -> tuple[bool, str]:
    """Whether a sample's image changes from reading to reading, and how it turned while its mask
    did not.
    """
    length = len(source.dataset)
    random, apart = False, ""
    for index in dict.fromkeys((0, length // 2)):
        dataset = copy_dataset(source.dataset)
        columns = {
            c.path: c.values for c in join_samples([dataset[index] for _ in range(READINGS)])
        }
        images, masks = columns.get(path, []), columns.get(mask, []) if mask else []
        random = random or any(not _equal(images[0], other) for other in images[1:])
        apart = apart or _find_turn(images, masks)
    return random, apart


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return True
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124


def _find_turn(images: Any, masks: Any) -> str:
    """How an image was flipped between two readings in which its mask stayed as it was."""
    if not len(masks) or not isinstance(masks[0], Tensor):
        return ""
    for image, mask in zip(images[1:], masks[1:], strict=False):
        for turn, dims in _TURNS.items():
            turned = _equal(image, images[0].flip(dims)) and not _equal(image, images[0])
            if turned and _equal(mask, masks[0]) and not _equal(mask, masks[0].flip(dims)):
                return turn
    return ""


def _try_workers(source: Source, path: str) -> tuple[bool | None, bool | None]:
    """Whether two workers, and two epochs, get the same sequence of one sample."""
    given = source.given
    if not isinstance(given, DataLoader) or given.num_workers == 0 or given.batch_size is None:
        return None, None
    first = _draw(given, path)
    if first is None or not _varies(first[0]):
        return None, None
    workers = len(first) > 1 and _all_equal(first[0], first[1])
    epochs = not given.persistent_workers
    if not workers and not epochs:
        return False, None
    # A second time with other seeds: what agreed by chance does not do so again.
    second = _draw(given, path)
    if second is None:
        return None, None
    return (
        workers and _all_equal(second[0], second[1]),
        epochs and _all_equal(first[0], second[0]),
    )


def _draw(given: DataLoader[Any], path: str) -> list[Any] | None:
    """What each of at most two workers makes of one sample, DRAWS times."""
    count = min(2, given.num_workers)
    twin = copy_loader(given, num_workers=count, prefetch_factor=1, pin_memory=False)
    twin.__dict__["batch_sampler"] = [[0] * DRAWS] * count
    twin.__dict__["timeout"] = given.timeout or PATIENCE
    found = [{c.path: c.values for c in read_columns(batch)}.get(path) for batch in twin]
    return found if len(found) == count and all(f is not None for f in found) else None


def _varies(values: Any) -> bool:
    return any(not _equal(values[0], other) for other in values[1:])


def _all_equal(a: Any, b: Any) -> bool:
    pairs = list(zip(a, b, strict=False))
    return len(pairs) == DRAWS and all(torch.is_tensor(x) and _equal(x, y) for x, y in pairs)
