"""Reads a bounded sample of the training data, and of the validation data, into facts; the user's
loaders are left as they were.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from cnnprobe.data.columns import join_samples
from cnnprobe.data.datasets import find_file
from cnnprobe.data.describing import describe_split
from cnnprobe.data.expectation import Expectation
from cnnprobe.data.facts import Data, Failed, Split
from cnnprobe.data.gathering import RETRIED, SplitTallies, measure_batch, start_tallies
from cnnprobe.data.images import NAMED, ImageTally
from cnnprobe.data.information import find_exchange
from cnnprobe.data.keeping import kept_generators
from cnnprobe.data.labels import find_moved
from cnnprobe.data.leaks import find_leaks, share_transform
from cnnprobe.data.pairs import PairTally
from cnnprobe.data.source import (
    Batch,
    Limits,
    LoaderError,
    Source,
    open_source,
    read_batches,
    spread,
)
from cnnprobe.data.spots import Spotted
from cnnprobe.data.turns import find_turned

Tell = Callable[[str, int], None]


@dataclass(slots=True)
class LoaderReading:
    """What was read of one split, with what is needed to compare it and to draw it."""

    split: Split
    source: Source
    images: ImageTally
    inputs: Tensor | None = None  # the first images of the first batch
    error: Exception | None = None  # what the loader raised


def read_data(
    training: Any,
    validation: Any = None,
    *,
    limits: Limits,
    expected: Expectation | None = None,
    tell: Tell | None = None,
) -> tuple[Data, list[LoaderReading]]:
    """The facts of both, and what is needed to draw them.

    Args:
        training: a DataLoader, a Dataset, or any iterable of batches.
        validation: the same; None where there is none.
        limits: how much is read of each.
        expected: what the model expects, where there is one.
        tell: called with the name of what is read and the number of samples so far.

    Raises:
        UsageError: what is given can be read only once.
        TargetError: it gives no batches.
    """
    given = {"training": training} | ({} if validation is None else {"validation": validation})
    sources = [open_source(each, name) for name, each in given.items()]
    readings = []
    with kept_generators(*given.values()):
        readings = [_read_split(source, limits, tell) for source in sources]
    splits = [reading.split for reading in readings]
    data = Data(
        training=splits[0],
        validation=splits[1] if len(splits) > 1 else None,
        expected=expected or Expectation(),
        leaks=find_leaks(*readings) if len(readings) > 1 else (),
        one_transform=len(sources) > 1 and share_transform(*sources),
        moved=find_moved(splits),
        exchange=find_exchange(*(reading.images.features for reading in readings)),
        turned=find_turned(*(each.images.labelled or each.images.tiny for each in readings)),
    )
    return data, readings


def _read_split(source: Source, limits: Limits, tell: Tell | None) -> LoaderReading:
    tallies: SplitTallies | None = None
    failed = cause = None
    try:
        for batch in read_batches(source, limits):
            tallies = tallies or start_tallies(batch, limits)
            measure_batch(tallies, batch, source)
            if tell is not None:
                tell(source.name, tallies.samples)
    except LoaderError as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        failed, tallies = _read_singly(source, cause, tallies, limits)
    tallies = tallies or SplitTallies({}, {}, PairTally({}))
    split = describe_split(source, tallies, failed)
    return LoaderReading(split, source, tallies.images, tallies.inputs, cause)


def _read_singly(
    source: Source, error: Exception, tallies: SplitTallies | None, limits: Limits
) -> tuple[Failed, SplitTallies | None]:
    """What raised, and samples that are read one by one to see which of them do."""
    collating = any("collate" in frame.name for frame in traceback.extract_tb(error.__traceback__))
    collating = collating or "collate" in str(error)
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    failed = Failed(
        kind=type(error).__name__, message=lines[-1].strip() if lines else "", collating=collating
    )
    if not source.is_indexed:
        return failed, tallies
    good, indices, unreadable = [], [], []
    chosen = spread(len(source.dataset), RETRIED)
    for index in chosen:
        try:
            good.append(source.dataset[index])
            indices.append(index)
        except Exception:
            name = find_file(source.dataset, index)
            unreadable.append(Spotted(batch=0, position=0, index=index, name=name))
    failed = replace(
        failed, unreadable=tuple(unreadable[:NAMED]), count=len(unreadable), tried=len(chosen)
    )
    if good:
        batch = Batch(join_samples(good), indices, 0.0)
        # The paths of single samples are those of a batch; what was read before is read again.
        tallies = start_tallies(batch, limits)
        measure_batch(tallies, batch, source)
        tallies.compared = tallies.uniform = 0
        tallies.mixing = []
    return failed, tallies
