"""The batches of a loader, a data set or any iterable of batches, with the indices of their samples
where these are known.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from cnnprobe.data.columns import BatchColumn, join_samples, read_columns
from cnnprobe.data.facts import Draws, LoaderSettings
from cnnprobe.data.keeping import copy_dataset, copy_loader
from cnnprobe.errors import TargetError, UsageError


class LoaderError(Exception):
    """The loader raised; what it raised is the cause."""


JOINED = 32  # samples of a data set that are measured at a time
_ORDER = 2000  # indices by which two epochs are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is read: the first bound that is reached ends it; None is no bound."""

    samples: int | None = 1024
    seconds: float | None = 10.0
    drawn: int = 48  # images that are kept to be drawn


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, as columns, and where its samples stand in the data set."""

    columns: list[BatchColumn]
    indices: list[int] | None
    seconds: float  # that it was waited for


@dataclass(slots=True)
class Source:
    """Where batches come from. `dataset` is a copy that may be read at will; None where there is
    none.
    """

    given: Any
    name: str
    dataset: Any = None
    loader: DataLoader[Any] | None = None
    complete: bool = False  # set when all was read
    indices: deque[list[int]] = field(default_factory=deque)
    first: Any = None  # the first batch, as the loader gave it

    @property
    def is_indexed(self) -> bool:
        """Whether single samples can be had by their index."""
        d = self.dataset
        is_map = d is not None and not isinstance(d, IterableDataset)
        return is_map and hasattr(d, "__getitem__") and hasattr(d, "__len__")


def open_source(given: Any, name: str) -> Source:
    """The source of what a user calls the data.

    Raises:
        UsageError: it can be read only once, or is a single batch.
        TargetError: it is nothing that gives batches.
    """
    if isinstance(given, DataLoader):
        twin = copy_loader(given)
        return Source(given, name, twin.dataset, twin)
    if isinstance(given, Dataset):
        return Source(given, name, copy_dataset(given))
    if hasattr(given, "__next__"):
        raise UsageError(
            (
                f"a {type(given).__name__} can be read only once, and your training would miss "
                "what "
                "is read here"
            ),
            where=f"the {name} data",
            fix="give the loader itself, or a list of batches",
        )
    if isinstance(given, str | dict) or not hasattr(given, "__iter__"):
        raise TargetError(
            f"a {type(given).__name__} gives no batches",
            where=f"the {name} data",
            fix="give a DataLoader, a Dataset or an iterable of batches",
        )
    if hasattr(given, "dim"):
        raise UsageError(
            "a tensor is one batch, or the images alone",
            where=f"the {name} data",
            fix="give the loader; for one batch write [(images, labels)]",
        )
    return Source(given, name)


def read_batches(source: Source, limits: Limits) -> Iterator[Batch]:
    """The batches, up to the limits.

    Raises:
        LoaderError: the source raised.
    """
    began, read = time.monotonic(), 0
    items = _iterate(source, limits)
    while True:
        asked = time.monotonic()
        try:
            columns, indices = next(items)
        except StopIteration:
            break
        except UsageError:
            raise
        except Exception as error:
            raise LoaderError from error
        batch = Batch(columns, indices, time.monotonic() - asked)
        read += max((len(column) for column in batch.columns), default=0)
        yield batch
        if limits.seconds is not None and time.monotonic() - began > limits.seconds:
            return
        if limits.samples is not None and read >= limits.samples:
            break
    source.complete = (
        limits.samples is None or read < limits.samples or read == count_samples(source)
    )


def _iterate(
    source: Source, limits: Limits
) -> Iterator[tuple[list[BatchColumn], list[int] | None]]:
    if source.loader is not None:
        return _iterate_loader(source, source.loader, limits)
    if isinstance(source.given, IterableDataset):
        return _iterate_stream(source)
    if source.is_indexed:
        return _iterate_dataset(source, limits)
    return _iterate_batches(source)


def _iterate_batches(source: Source) -> Iterator[tuple[list[BatchColumn], list[int] | None]]:
    for batch in source.given:
        source.first = batch if source.first is None else source.first
        yield read_columns(batch), None


def _iterate_loader(
    source: Source, loader: DataLoader[Any], limits: Limits
) -> Iterator[tuple[list[BatchColumn], list[int] | None]]:
    batch_sampler = loader.__dict__["batch_sampler"]
    if batch_sampler is not None and not isinstance(loader.dataset, IterableDataset):
        loader.__dict__["batch_sampler"] = _Recorded(batch_sampler, source, limits)
    for batch in loader:
        indices = source.indices.popleft() if source.indices else None
        source.first = batch if source.first is None else source.first
        columns = read_columns(batch)
        known = indices is not None and getattr(loader, "in_order", True)
        fits = known and all(len(column) == len(indices or ()) for column in columns)
        yield columns, indices if fits else None


class _Recorded:
    """The batches of indices of a sampler that are read: the first ones, or every k-th where they
    are in order.
    """

    def __init__(self, sampler: Any, source: Source, limits: Limits) -> None:
        self._sampler, self._source, self._limits = sampler, source, limits

    def __iter__(self) -> Iterator[Any]:
        step, most = self._choose_step()
        for indices in islice(self._sampler, 0, None, step):
            self._source.indices.append(list(indices))
            yield indices
            most -= 1
            if most <= 0:
                return

    def __len__(self) -> int:
        return len(self._sampler)

    def _choose_step(self) -> tuple[int, int]:
        size = getattr(self._sampler, "batch_size", None) or 1
        if self._limits.samples is None:
            return 1, 2**62
        most = max(1, -(-self._limits.samples // size))
        try:
            there = len(self._sampler)
        except TypeError:
            return 1, most
        in_order = isinstance(getattr(self._sampler, "sampler", None), SequentialSampler)
        return (max(1, there // most) if in_order else 1), most


def _iterate_dataset(
    source: Source, limits: Limits
) -> Iterator[tuple[list[BatchColumn], list[int] | None]]:
    """Samples that lie evenly in the data set."""
    chosen = spread(len(source.dataset), limits.samples)
    for start in range(0, len(chosen), JOINED):
        indices = chosen[start : start + JOINED]
        yield join_samples([source.dataset[i] for i in indices]), indices


def spread(length: int, most: int | None) -> list[int]:
    """At most so many indices, evenly from all.

    >>> spread(10, 4)
    [0, 2, 5, 7]
    """
    if most is None or length <= most:
        return list(range(length))
    return [i * length // most for i in range(most)]


def _iterate_stream(source: Source) -> Iterator[tuple[list[BatchColumn], list[int] | None]]:
    samples = iter(source.given)
    if samples is source.given:
        raise UsageError(
            f"{type(source.given).__name__} can be read only once",
            where=f"the {source.name} data",
            fix="let its __iter__ return a new iterator each time",
        )
    while found := list(islice(samples, JOINED)):
        yield join_samples(found), None


def count_samples(source: Source) -> int | None:
    """The number of samples of an epoch; None where it is not known."""
    subject = source.loader.sampler if source.loader is not None else source.dataset
    if isinstance(source.dataset, IterableDataset) or subject is None:
        return None
    return _length(subject)


def describe_loading(source: Source, seconds: float) -> LoaderSettings:
    """How the data is loaded, as plain data."""
    samples = count_samples(source)
    given = type(source.given).__name__
    if source.loader is None:
        batches = _length(source.given) if source.dataset is None else None
        return LoaderSettings(kind=given, samples=samples, batches=batches, seconds=seconds)
    loader = source.given
    sampler, size = loader.sampler, loader.batch_size
    stock = type(loader.batch_sampler).__name__ == "BatchSampler"
    last = None
    if stock and samples and size:
        last = size if loader.drop_last else (samples % size or size)
    return LoaderSettings(
        kind=given,
        samples=samples,
        batches=_length(loader),
        batch_size=size,
        last_batch=last,
        workers=loader.num_workers,
        sampler=type(sampler).__name__ if stock else type(loader.batch_sampler).__name__,
        shuffled=_is_shuffled(sampler) if stock else None,
        size=_length(loader.dataset),
        draws=_describe_draws(sampler),
        same_order=_has_same_order(loader) if stock else None,
        seconds=seconds,
    )


def _describe_draws(sampler: Any) -> Draws | None:
    if not isinstance(sampler, WeightedRandomSampler):
        return None
    return Draws(weights=len(sampler.weights), zeros=int((sampler.weights == 0).sum()))


def _length(subject: Any) -> int | None:
    try:
        return len(subject)
    except (TypeError, NotImplementedError):
        return None


def _is_shuffled(sampler: Any) -> bool | None:
    if isinstance(sampler, SequentialSampler):
        return False
    if isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
        return True
    shuffle = getattr(sampler, "shuffle", None)
    return shuffle if isinstance(shuffle, bool) else None


def _has_same_order(loader: DataLoader[Any]) -> bool | None:
    """Whether a sampler of the user's own gives the same order twice; a DistributedSampler is told
    the epoch in the loop.
    """
    if isinstance(loader.dataset, IterableDataset) or hasattr(loader.sampler, "set_epoch"):
        return None
    if _is_shuffled(loader.sampler) is not None and not _is_reseeded(loader.sampler):
        return None
    twin = copy_loader(loader)
    try:
        first, second = (list(islice(iter(twin.sampler), _ORDER)) for _ in range(2))
    except Exception:  # a sampler that needs its loop around it
        return None
    ordered = all(a < b for a, b in pairwise(first))
    return len(first) > 2 and first == second and not ordered


def _is_reseeded(sampler: Any) -> bool:
    """Whether the class is the user's own."""
    return not type(sampler).__module__.startswith("torch.")


def choose_samples(dataset: Any, sampler: Any) -> Iterable[int] | None:
    """The indices that an epoch draws; None where that is not known."""
    if isinstance(sampler, SubsetRandomSampler):
        return list(sampler.indices)
    if isinstance(sampler, SequentialSampler) or type(sampler) is RandomSampler:
        return range(len(dataset))
    return None
