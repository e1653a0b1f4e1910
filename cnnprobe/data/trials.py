"""Reads some samples again: whether they come out otherwise, and whether workers and epochs draw
the same random numbers.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from cnnprobe.data.apart import SAMPLES, compare_readings
from cnnprobe.data.clues import Strangers
from cnnprobe.data.columns import join_samples, read_columns
from cnnprobe.data.datasets import list_transforms
from cnnprobe.data.facts import SampleTrials
from cnnprobe.data.fitting import compare_pictures, find_fit, match_pictures
from cnnprobe.data.images import is_single
from cnnprobe.data.keeping import copy_dataset, copy_loader, kept_generators
from cnnprobe.data.source import Source, spread
from cnnprobe.data.spots import SamePicture, Spotted
from cnnprobe.data.tallies import number_of

READINGS = 4  # of one sample in the same process
DRAWS = (
    8  # readings of one sample a worker: two workers agree by chance in one of 256 for flips alone
)
STREAMED = 16  # batches of a stream that are compared
NEIGHBOURS = 32  # samples side by side in the data set whose masks are laid on one another's images
SAME = 0.95  # of the other samples of a batch are less alike than the one at the same place
FEWEST = 8  # samples of a stream that are compared
PATIENCE = 30.0  # seconds that a worker may take
SIMILAR = 0.5  # of the distance of two images: one, augmented, is nearer to itself
FROZEN = 16  # readings of a sample: an even chance leaves it so each time once in 65,000
LEAST_CHANCE = 0.4  # of a transform that is applied by chance
_DRAWING = ("RandomHorizontalFlip", "RandomVerticalFlip", "RandomResizedCrop", "RandAugment",
            "TrivialAugmentWide", "AutoAugment", "RandomErasing")  # fmt: skip
_UNMOVED = {"mask": "mask", "boxes": "boxes", "points": "key points"}
_TURNS = {"left to right": (-1,), "top to bottom": (-2,), "by half a turn": (-1, -2)}


@dataclass(frozen=True, slots=True)
class SampleStretch:
    """The labels and the sketches of a batch of a stream."""

    labels: list[int | None]
    sketches: Any  # (N, F), or None


def try_again(
    source: Source,
    path: str | tuple[str, ...],
    objects: Mapping[str, str],
    stream: Sequence[SampleStretch] = (),
) -> SampleTrials:
    """What further readings of one or two samples show; nothing where samples cannot be had one by
    one.

    Args:
        source: where they come from.
        path: of the images in a sample; of all parts, where there are no images.
        objects: path to role of what has a place in the image: mask, boxes, points; an image is
            the target of another, and a class its label.
        stream: the first batches of a stream, as they were read.
    """
    if isinstance(path, tuple):
        return _try_draws(source, path)
    if isinstance(source.dataset, IterableDataset):
        return SampleTrials(unsharded=find_unsharded(source.given, stream))
    if not source.is_indexed or not len(source.dataset):
        return SampleTrials()
    try:
        with kept_generators(source.given), _quiet():
            random, anew, apart, unmoved, rescaled = _read_repeatedly(source, path, objects)
            workers, epochs = _try_workers(source, path) if random else (None, None)
            frozen = "" if random else _find_frozen(source, path)
            mask = next((p for p, role in objects.items() if role == "mask"), "")
            twin = next((p for p, role in objects.items() if role == "image"), "")
            fit = find_fit(*_read_neighbours(source, path, mask)) if mask else None
            strangers = (
                _read_strangers(source, path, mask) if random and mask and not apart else None
            )
            alike = None
            if twin and not mask:
                pictures = _read_neighbours(source, path, twin)
                fit, alike = match_pictures(*pictures), compare_pictures(*pictures)
    except Exception:  # a trial that the user's code does not allow shows nothing
        return SampleTrials()
    return SampleTrials(
        random=random,
        anew=anew,
        workers_repeat=workers,
        epochs_repeat=epochs,
        apart=apart,
        unmoved=unmoved,
        rescaled=rescaled,
        alike=alike,
        frozen=frozen,
        fit=fit,
        strangers=strangers,
    )


def _try_draws(source: Source, paths: Sequence[str]) -> SampleTrials:
    """Whether workers, and epochs, draw the same random numbers, by the first of these parts of a
    sample that comes out otherwise when it is read again; for data without images.
    """
    workers = getattr(source.given, "num_workers", 0)
    if isinstance(source.dataset, IterableDataset) or not source.is_indexed or not workers:
        return SampleTrials()
    repeats: tuple[bool | None, bool | None] = None, None
    with contextlib.suppress(Exception), kept_generators(source.given), _quiet():
        read = _read_often(source, 0, READINGS)
        varied = (path for path in paths if path in read and _varies(read[path]))
        path = next(varied, None)
        repeats = _try_workers(source, path) if path is not None else repeats
    return SampleTrials(workers_repeat=repeats[0], epochs_repeat=repeats[1])


def try_blanks(source: Source, path: str, spots: Sequence[Spotted]) -> tuple[int, int]:
    """How many images of one colour were read again, and how many had another colour in one of
    READINGS: those are random crops.
    """
    tried = unsteady = 0
    for spot in spots:
        if spot.index is None or not source.is_indexed:
            continue
        with contextlib.suppress(Exception):  # what the user's code does not allow shows nothing
            with kept_generators(source.given), _quiet():
                dataset = copy_dataset(source.dataset)
                samples = join_samples([dataset[spot.index] for _ in range(READINGS)])
            images = next(c.values for c in samples if c.path == path)
            unsteady += any(not is_single(image) for image in images)
            tried += 1
    return tried, unsteady


def confirm_pairs(
    source: Source, path: str, pairs: Sequence[SamePicture]
) -> tuple[SamePicture, ...]:
    """The pairs without those whose images differ when they are read again as a whole: small copies
    leave out what is smaller than their pixels.
    """
    return tuple(pair for pair in pairs if not pair.exact or _agree(source, path, pair))


def _agree(source: Source, path: str, pair: SamePicture) -> bool:
    places = pair.first.index, pair.second.index
    if None in places or not source.is_indexed:
        return True
    with contextlib.suppress(Exception), kept_generators(source.given), _quiet():
        dataset = copy_dataset(source.dataset)
        samples = join_samples([dataset[place] for place in places])
        images = next(c.values for c in samples if c.path == path)
        return _equal(images[0], images[1])
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_repeatedly(
    source: Source, path: str, objects: Mapping[str, str]
) -> tuple[bool, bool, str, str, bool]:
    """Whether a sample's image changes from reading to reading, whether it is drawn anew (as a set
    of images, or with another label), how it was flipped while its mask, boxes or key points were
    not, and whether each reading scales the last one.
    """
    length = len(source.dataset)
    random, anew, apart, unmoved, rescaled = False, False, "", "mask", False
    for index in dict.fromkeys((0, length // 2)):
        columns = _read_often(source, index, READINGS)
        images = columns.get(path, [])
        random = random or any(not _equal(images[0], other) for other in images[1:])
        labels = [columns.get(p, []) for p, role in objects.items() if role == "class"]
        anew = anew or _are_drawn(images) or any(map(_vary, labels))
        rescaled = rescaled or (random and index == 0 and _is_rescaled(images))
        for place, role in objects.items():
            if (
                not apart
                and role in _UNMOVED
                and (turn := _find_turn(images, columns.get(place, []), role))
            ):
                apart, unmoved = turn, _UNMOVED[role]
    return random, anew, apart, unmoved, rescaled


def _vary(labels: Sequence[Any]) -> bool:
    """Whether a sample is of another class in another reading."""
    return any(number_of(label) != number_of(labels[0]) for label in labels[1:])


def _is_rescaled(read: Sequence[Any]) -> bool:
    """Whether each reading of a sample is the last one, scaled by the same factors in each
    channel.
    """
    if not all(isinstance(x, Tensor) and x.dim() == 3 and x.is_floating_point() for x in read):
        return False
    if len({tuple(x.shape) for x in read}) != 1:
        return False
    flat = torch.stack([x.detach().double().flatten(1) for x in read])  # (READINGS, C, F)
    apart = flat - flat.mean(2, keepdim=True)
    sizes = apart.norm(dim=2)
    same = (apart[1:] * apart[:-1]).sum(2) > (1 - 1e-6) * sizes[1:] * sizes[:-1]
    factors = sizes[1:] / sizes[:-1].clamp(min=1e-12)
    steady = (factors - factors[0]).abs() < 1e-3 * factors[0]
    moved = (factors[0] - 1).abs() > 1e-3
    return bool(same.all() and steady.all() and moved.all())


def _are_drawn(images: Sequence[Any]) -> bool:
    """Whether a sample holds several images, as an episode does, and others in another reading."""
    sets = [image for image in images if isinstance(image, Tensor) and image.dim() == 4]
    if len(sets) < 2 or sets[0].shape != sets[1].shape:
        return False
    first, second = (each.flatten(1).double() for each in sets[:2])
    apart = torch.cdist(first, second).diagonal()  # one place in both, beside two places in one
    others = torch.cdist(first, first)
    return bool(apart.median() > SIMILAR * others[others > 0].median()) if others.any() else False


def _read_often(source: Source, index: int, times: int) -> dict[str, Any]:
    dataset = copy_dataset(source.dataset)
    return {c.path: c.values for c in join_samples([dataset[index] for _ in range(times)])}


def _read_strangers(source: Source, path: str, mask: str) -> Strangers | None:
    """Readings of samples all over the data set, compared."""
    length = len(source.dataset)
    read = [_read_often(source, i, READINGS) for i in sorted(spread(length, SAMPLES))]
    return compare_readings(*([each.get(part, []) for each in read] for part in (path, mask)))


def _find_frozen(source: Source, path: str) -> str:
    """A transform that draws with an even chance, though one sample comes out alike in FROZEN
    readings; "" where there is none.
    """
    name = next((n for t in list_transforms(source.dataset) if (n := _name_drawing(t))), "")
    if not name:
        return ""
    for index in dict.fromkeys((0, len(source.dataset) // 2)):
        images = _read_often(source, index, FROZEN).get(path, [])
        if any(not _equal(images[0], other) for other in images[1:]) or is_single(images[0]):
            return ""
    return name


def _name_drawing(transform: Any) -> str:
    name, p = type(transform).__name__, getattr(transform, "p", None)
    chance = float(p) if isinstance(p, int | float) else 0.5
    return name if name in _DRAWING and LEAST_CHANCE <= chance < 1 else ""


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return True
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124


def _find_turn(images: Any, objects: Any, role: str) -> str:
    """How an image was flipped between two readings in which its mask, boxes or points stayed as
    they were.
    """
    if not len(objects) or not isinstance(objects[0], Tensor) or not objects[0].numel():
        return ""
    for image, given in zip(images[1:], objects[1:], strict=False):
        for turn, dims in _TURNS.items():
            turned = _equal(image, images[0].flip(dims)) and not _equal(image, images[0])
            if turned and _equal(given, objects[0]) and not _is_symmetric(given, image, dims, role):
                return turn
    return ""


def _is_symmetric(given: Tensor, image: Tensor, dims: tuple[int, ...], role: str) -> bool:
    """Whether a mask, or boxes in pixels, are the same when they are flipped."""
    if role == "mask":
        return _equal(given, given.flip(dims))
    if role != "boxes":
        return False
    sides = [image.shape[-1], image.shape[-2]]
    flat = given.reshape(-1, 4).double()
    return all(bool(((flat[:, at] + flat[:, at + 2] - sides[at]).abs() <= 1).all())
               for at in (-1 - dim for dim in dims))  # fmt: skip


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


# ---------------------------------------------------------------- masks of the neighbours


def _read_neighbours(source: Source, path: str, mask: str) -> tuple[list[Any], list[Any]]:
    """The images and the masks of samples side by side in the data set."""
    dataset = copy_dataset(source.dataset)
    samples = [dataset[i] for i in range(min(NEIGHBOURS, len(dataset)))]
    columns = {c.path: list(c.values) for c in join_samples(samples)}
    return columns.get(path, []), columns.get(mask, [])


# ---------------------------------------------------------------- streams


def find_unsharded(given: Any, stream: Sequence[SampleStretch]) -> bool | None:
    """Whether the workers of a stream give the same samples, each augmented in its own way; None
    where that cannot be told.

    Args:
        given: the user's loader.
        stream: the first batches; those of each worker come in turn.
    """
    workers = given.num_workers if isinstance(given, DataLoader) else 0
    if workers < 2 or not getattr(given, "in_order", True):
        return None
    pairs = [(a, b) for a, b in zip(stream[::workers], stream[1::workers], strict=False)]
    compared = [n for a, b in pairs if (n := _rank_places(a, b)) is not None]
    if sum(len(each) for each in compared) < FEWEST:
        return None
    equal = all(a.labels == b.labels for a, b in pairs)
    return equal and float(np.concatenate(compared).mean()) >= SAME


def _rank_places(a: SampleStretch, b: SampleStretch) -> Any:
    """Of the samples of one batch, the share of those of the other that are less alike than the one
    at the same place; one half on average for other samples.
    """
    if a.sketches is None or b.sketches is None or len(a.sketches) < 2:
        return None
    if np.shape(a.sketches) != np.shape(b.sketches):
        return None
    apart = np.abs(a.sketches[:, None] - b.sketches[None]).mean(-1)
    own = apart.diagonal()[:, None]
    others = (apart > own).sum(1) + ((apart == own).sum(1) - 1) / 2
    return others / (len(own) - 1)
