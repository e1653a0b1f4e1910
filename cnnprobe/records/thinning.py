"""Long runs made short without losing an extreme: neighbouring steps share a bucket, of which the
least and the greatest number stay.

Buckets are those of `step // width`, with a width that doubles. So each bucket lies within one of
the next width, and what was thinned again and again is what would be left of the whole at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnprobe.records.history import STATISTICS, Curve, History, Series, unify_nan
from cnnprobe.records.statistics import COUNT, INF, NAN, ZEROS
from cnnprobe.records.trace import Histogram

FIRST, LATEST = 2, 64  # entries that stay as they are: rules and tables read them
_NAMES = (*STATISTICS, "extra")
_SHARES = (ZEROS, NAN, INF)  # counts that say something beside COUNT only
_EXTRAS = ("ratio", "dead")
_FEWEST = 16  # entries of a history that is thinned to a size
_Entry = TypeVar("_Entry")
Groups = list[tuple[int, int]]

# ---------------------------------------------------------------- single numbers


def thin_points(
    steps: Sequence[int], values: Sequence[float], most: int
) -> tuple[list[int], list[float]]:
    """At most `most` of the points: the first, the last, and of each bucket of steps the least, the
    greatest and the first that is not finite. The width of the buckets is a power of two.

    >>> thin_points(range(8), [5.0, 1, 2, 9, 4, 4, 4, 3], 6)
    ([0, 1, 3, 4, 7], [5.0, 1, 9, 4, 3])
    """
    if len(steps) <= most:
        return list(steps), list(values)
    width = 1
    while (steps[-1] - steps[0]) // width > most // 2:
        width *= 2
    kept = _choose_points(steps, values, width)
    while len(kept) > most:
        width *= 2
        kept = _choose_points(steps, values, width)
    return [steps[i] for i in kept], [values[i] for i in kept]


def _choose_points(steps: Sequence[int], values: Sequence[float], width: int) -> list[int]:
    numbers = np.asarray(values, dtype=np.float64)
    buckets = np.asarray(steps, dtype=np.int64) // width
    starts = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
    inside = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(steps)))
    finite = np.isfinite(numbers)
    least = np.minimum.reduceat(np.where(finite, numbers, np.inf), starts)[inside]
    greatest = np.maximum.reduceat(np.where(finite, numbers, -np.inf), starts)[inside]
    kept = [np.array([0, len(steps) - 1])]
    for chosen in (finite & (numbers == least), finite & (numbers == greatest), ~finite):
        at = np.flatnonzero(chosen)
        kept.append(at[np.unique(inside[at], return_index=True)[1]])  # the first of each bucket
    found: list[int] = np.unique(np.concatenate(kept)).tolist()
    return found


# ---------------------------------------------------------------- rows of numbers


def choose_groups(steps: Sequence[int], most: int) -> Groups:
    """The ranges [start, stop) of entries that are to be merged into two each, so that half of the
    room for `most` is free again. The first ones and the latest ones stay.
    """
    latest = min(LATEST, most // 4)
    stop = len(steps) - latest
    room = max(2, (most - FIRST - latest) // 2)
    width = 1
    while True:
        groups = _list_groups(steps, stop, width)
        if stop - FIRST - sum(end - start - 2 for start, end in groups) <= room:
            return groups
        width *= 2


def _list_groups(steps: Sequence[int], stop: int, width: int) -> Groups:
    buckets = groupby(range(FIRST, stop), key=lambda i: steps[i] // width)
    ranges = [(inside[0], inside[-1] + 1) for inside in (list(bucket) for _, bucket in buckets)]
    return [(start, end) for start, end in ranges if end - start > 2]


def merge_groups(
    entries: Sequence[_Entry],
    groups: Groups,
    merge: Callable[[Sequence[_Entry]], tuple[_Entry, _Entry]],
) -> list[_Entry]:
    """The entries, with two in place of each group."""
    merged: list[_Entry] = []
    at = 0
    for start, stop in groups:
        merged += entries[at:start]
        merged += merge(entries[start:stop])
        at = stop
    merged += entries[at:]
    return merged


def pick_ends(entries: Sequence[_Entry]) -> tuple[_Entry, _Entry]:
    """The first and the last one."""
    return entries[0], entries[-1]


def envelop(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least and the greatest of each number, in the order in which they came.

    Where the counts of elements differ, those of zeros, NaN and Inf are made counts among as many:
    their shares are compared, and kept.

    Args:
        rows: shape (entries, ..., columns of a ledger); NaN where nothing was seen.

    Returns:
        Shape (2, ..., columns).
    """
    rows = _even_counts(rows)
    known = ~np.isnan(rows)
    at_least = np.where(known, rows, np.inf).argmin(0)
    at_greatest = np.where(known, rows, -np.inf).argmax(0)
    first, second = np.minimum(at_least, at_greatest), np.maximum(at_least, at_greatest)
    return np.stack([np.take_along_axis(rows, at[None], 0)[0] for at in (first, second)])


def _even_counts(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = rows[..., COUNT]
    most = np.fmax.reduce(counts, axis=0)
    if not (counts < most).any():
        return rows
    rows = rows.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(counts > 0, most / counts, 1.0)
    for column in _SHARES:
        rows[..., column] *= scale
    rows[..., COUNT] = np.where(np.isnan(counts), np.nan, most)
    return rows


def envelop_entries(
    entries: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same of entries that may have different numbers of rows: later ones know more."""
    known = max(map(len, entries))
    padded = np.full((len(entries), known, *entries[0].shape[1:]), np.nan)
    for i, entry in enumerate(entries):
        padded[i, : len(entry)] = entry
    first, second = envelop(padded)
    return first, second


# ---------------------------------------------------------------- a whole history


def thin_history(history: History, *, numbers: int, points: int) -> History:
    """A history with at most about so many `numbers` in its series, and `points` in each curve.

    >>> curve = Curve(name="loss", steps=tuple(range(100)), values=(1.0,) * 50 + (9.0,) * 50)
    >>> short = thin_history(History(model="Net", total=100, curves=(curve,)), numbers=100, points=10)
    >>> len(short.curve("loss").steps) <= 10, max(short.curve("loss").values)
    (True, 9.0)
    """  # noqa: E501
    curves = tuple(_thin_curve(curve, points) for curve in history.curves)
    width = sum(len(series.numbers) for series in history.series)
    most = max(_FEWEST, numbers // max(width, 1))
    if len(history.steps) <= most:
        return replace(history, curves=curves)
    groups = choose_groups(history.steps, most)
    steps = tuple(merge_groups(history.steps, groups, pick_ends))
    return replace(
        history,
        curves=curves,
        steps=steps,
        thinned=history.thinned + len(history.steps) - len(steps),
        series=tuple(_thin_series(series, groups) for series in history.series),
    )


def _thin_curve(curve: Curve, most: int) -> Curve:
    steps, values = thin_points(curve.steps, curve.values, most)
    return replace(curve, steps=tuple(steps), values=unify_nan(values))


def _thin_series(series: Series, groups: Groups) -> Series:
    extra = next((name for name in _EXTRAS if name in series.numbers), "extra")
    names = (*_NAMES[:-1], extra)
    length = len(next(iter(series.numbers.values()), ()))
    rows = np.full((length, len(names)), np.nan)
    for i, name in enumerate(names):
        if name in series.numbers:
            rows[:, i] = series.numbers[name]
    merged = np.array(merge_groups(list(rows), groups, lambda some: tuple(envelop(np.stack(some)))))
    columns = {name: unify_nan(merged[:, i].tolist()) for i, name in enumerate(names)}
    spreads: tuple[Histogram | None, ...] = ()
    if series.histograms:
        spreads = tuple(merge_groups(series.histograms, groups, pick_ends))
    return replace(
        series, numbers={name: columns[name] for name in series.numbers}, histograms=spreads
    )
