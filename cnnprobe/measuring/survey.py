"""A measurement from its beginning to its end: the part of this process, its log, and the parts of
the others.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from cnnprobe.errors import UsageError
from cnnprobe.measuring.exchange import join_ranks
from cnnprobe.measuring.log import Job, Log, check_weights, name_log
from cnnprobe.measuring.passes import count_samples, list_batches, watch
from cnnprobe.measuring.results import Measurements
from cnnprobe.measuring.totals import Totals, find_percentiles, to_measured
from cnnprobe.recorder.inventory import check_hashable, check_model, class_of
from cnnprobe.recorder.peers import find_rank_in_group
from cnnprobe.recorder.whole import gather_whole

_WHERE = "measure(model, data)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The choices of one measurement; see `cnnprobe.measure`."""

    batch_size: int = 64
    workers: int = 0
    log: str | os.PathLike[str] | None = None
    progress: Callable[[int, int], None] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    data: str = ""  # what is measured, in words


def survey(model: nn.Module, data: Any, choices: Choices) -> Measurements:
    """The measurements of all processes, on each of them; see `cnnprobe.measure`."""
    check_model(model, "measure")
    check_hashable(model, "measure")
    dataset, choices = _take_loader(data, choices)
    samples = _count_samples(dataset)
    if choices.batch_size < 1 or choices.workers < 0:
        raise UsageError(
            f"batch_size={choices.batch_size}, workers={choices.workers} measure nothing",
            where=_WHERE,
            fix="give batch_size=64 and workers=0, or more",
        )
    rank, of = find_rank_in_group()
    model, _ = gather_whole(model, (), "cnnprobe.measure")  # the ranks make different passes
    named = choices.data or f"{type(dataset).__name__} of {samples:,} samples"
    job = Job(
        model=class_of(model).__name__, weights=check_weights(model), data=named, samples=samples,
        batch_size=choices.batch_size, rank=rank, of=of,
    )  # fmt: skip
    log = Log(name_log(choices.log, rank=rank, of=of), job)
    totals: Totals = {}
    error: Exception | None = None
    notes: list[str] = []
    try:
        totals, notes = _measure_part(model, dataset, choices, job, log)
    except Exception as raised:
        error = raised
    totals = join_ranks(totals, error)
    if error is not None:
        raise error
    measured = (to_measured(key, total) for key, total in totals.items())
    return Measurements(
        model=job.model,
        data=named,
        samples=samples,
        tensors=tuple(find_percentiles(one) for one in measured if one is not None),
        notes=(*notes, *([log.failure] if log.failure else [])),
    )


def _measure_part(
    model: nn.Module, dataset: Any, choices: Choices, job: Job, log: Log
) -> tuple[Totals, list[str]]:
    """What this process finds, and what could not be read."""
    totals, done = log.read()
    batches = list_batches(job.samples, job.batch_size, rank=job.rank, of=job.of, done=done)
    whole = count_samples(
        list_batches(job.samples, job.batch_size, rank=job.rank, of=job.of, done=0)
    )
    gone = whole - count_samples(batches)
    if choices.progress is not None and batches:
        choices.progress(gone, whole)
    with watch(model, totals) as watched:
        for batch, indices in zip(_load(dataset, batches, choices), batches, strict=True):
            watched.run(batch)
            done, gone = done + 1, gone + len(indices)
            log.write(totals, done)
            if choices.progress is not None:
                choices.progress(gone, whole)
    log.write(totals, done, last=True)
    unread = sorted({fqn or "the input" for what, fqn, *_ in watched.unread})
    return totals, [f"not measured, as it gives no floating point numbers: {fqn}" for fqn in unread]


def _load(dataset: Any, batches: list[range], choices: Choices) -> Iterator[Any]:
    """The batches in their order; the global random generator is left alone."""
    yield from DataLoader(
        dataset,
        batch_sampler=[list(indices) for indices in batches],
        num_workers=choices.workers,
        collate_fn=choices.collate,
        generator=torch.Generator().manual_seed(0),
    )


def _take_loader(data: Any, choices: Choices) -> tuple[Any, Choices]:
    if not isinstance(data, DataLoader):
        return data, choices
    return data.dataset, replace(
        choices,
        batch_size=data.batch_size or choices.batch_size,
        workers=data.num_workers,
        collate=data.collate_fn,
    )


def _count_samples(dataset: Any) -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise UsageError(
            f"a {type(dataset).__name__} has no samples by number",
            where=_WHERE,
            fix="give a map-style Dataset, with __len__ and __getitem__, or its DataLoader",
        )
    samples = len(dataset)
    if not samples:
        raise UsageError("the data set is empty", where=_WHERE, fix="give one with samples")
    return samples
