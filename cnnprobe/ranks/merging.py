"""Series and curves of all ranks as if one process had seen the whole batch.

Counts, extrema and histograms are exact, moments exact to rounding. The gradient of an activation
is divided by the number of ranks where the wrapper averages the gradients: it is that of the mean
of the losses.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cnnprobe.ranks.runs import RankRun
from cnnprobe.records.history import (
    STATISTICS,
    Curve,
    DeadChannels,
    History,
    NonFinite,
    Series,
    unify_nan,
)
from cnnprobe.records.ledger import COLUMNS, EXTRA, merge_rows
from cnnprobe.records.ranks import RankInfo
from cnnprobe.records.statistics import COUNT, L2, LOWEST, MAX, MEAN, MIN, STD, merge_histograms
from cnnprobe.records.trace import Histogram

_SCALED = [MEAN, STD, MIN, MAX, L2]
ALL = "all ranks"
_ORDER = ("parameter", "activation", "loss", "gradient", "update")  # in a step
Key = tuple[str, str, int, str]


def find_common_steps(runs: Sequence[RankRun]) -> tuple[int, ...]:
    """The steps that every one of the ranks has observed."""
    common = set(runs[0].history.steps).intersection(*(run.history.steps for run in runs[1:]))
    return tuple(sorted(common))


def merge_series(runs: Sequence[RankRun], steps: Sequence[int]) -> Iterator[Series]:
    """Each series that a rank has, over the steps that all have."""
    places = [[run.history.steps.index(step) for step in steps] for run in runs]
    keyed = [{_key(series): series for series in run.history.series} for run in runs]
    order: dict[Key, None] = {}
    for each in keyed:
        order.update(dict.fromkeys(each))
    for key in order:
        mine = [
            (run, each[key], place)
            for run, each, place in zip(runs, keyed, places, strict=True)
            if key in each
        ]
        yield _merge_one(mine, len(runs))


def _key(series: Series) -> Key:
    return series.fqn, series.what, series.call, series.output


_Mine = tuple[RankRun, Series, list[int]]


def _merge_one(mine: Sequence[_Mine], of: int) -> Series:
    run, first, places = mine[0]
    info = run.info
    if first.fqn in info.sharded:
        return _merge_parts([each for each in mine if not each[0].info.is_copy])
    if first.fqn in info.parameters:
        rows = [_read_rows(series, place) for _, series, place in mine]
        same = all(np.array_equal(rows[0], each, equal_nan=True) for each in rows[1:])
        picked = _pick(first, places)
        return replace(picked, ranks=ALL if same else f"rank {run.rank}")
    scale = 1.0 / of if first.what == "gradient" and info.wrapper else 1.0
    return _merge_batches(mine, scale)


def _pick(series: Series, places: Sequence[int]) -> Series:
    numbers = {name: tuple(values[i] for i in places) for name, values in series.numbers.items()}
    spreads = tuple(series.histograms[i] for i in places) if series.histograms else ()
    return replace(series, numbers=numbers, histograms=spreads)


def _read_rows(series: Series, places: Sequence[int]) -> NDArray[np.float64]:
    """Shape (steps, COLUMNS); NaN where there is no number."""
    rows = np.full((len(places), len(COLUMNS)), np.nan)
    for i, name in enumerate(STATISTICS):
        if name in series.numbers:
            rows[:, i] = np.array(series.numbers[name])[places]
    if "ratio" in series.numbers:
        rows[:, EXTRA] = np.array(series.numbers["ratio"])[places]
    return rows


def _merge_batches(mine: Sequence[_Mine], scale: float) -> Series:
    """What each rank saw of its own part of the batch, put together."""
    series, steps = mine[0][1], len(mine[0][2])
    rows = np.concatenate([_read_rows(each, places) for _, each, places in mine])
    slots = np.tile(np.arange(steps), len(mine))
    seen = rows[:, COUNT] > 0
    merged = merge_rows(slots[seen], rows[seen], steps)
    merged[:, _SCALED] *= scale
    numbers = {name: unify_nan(merged[:, i].tolist()) for i, name in enumerate(STATISTICS)}
    return replace(series, numbers=numbers, histograms=_merge_spreads(mine, scale), ranks=ALL)


def _merge_parts(mine: Sequence[_Mine]) -> Series:
    """What each rank saw of its own shard."""
    series = mine[0][1]
    if series.what != "update":
        return _merge_batches(mine, 1.0)
    rows = np.stack([_read_rows(each, places) for _, each, places in mine])
    norms, ratios = rows[:, :, L2], rows[:, :, EXTRA]
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(ratios > 0, norms / ratios, 0.0)  # an empty shard has none
        norm = np.sqrt(np.nansum(norms**2, axis=0))
        ratio = norm / np.sqrt(np.nansum(weights**2, axis=0))
    numbers = {"norm": unify_nan(norm.tolist()), "ratio": unify_nan(ratio.tolist())}
    return replace(series, numbers=numbers, ranks=ALL)


def _merge_spreads(mine: Sequence[_Mine], scale: float) -> tuple[Histogram | None, ...]:
    if not all(series.histograms for _, series, _ in mine):
        return ()
    found = []
    for i in range(len(mine[0][2])):
        total: Histogram | None = Histogram()
        for _, series, places in mine:
            total = merge_histograms(total, series.histograms[places[i]])
        found.append(_shift(total, scale))
    return tuple(found)


def _shift(histogram: Histogram | None, scale: float) -> Histogram | None:
    """The buckets are powers of two: others cannot be told from them."""
    exponent = round(math.log2(scale))
    if histogram is None or exponent == 0:
        return histogram
    if 2.0**exponent != scale or histogram.lowest + exponent <= LOWEST:
        return None
    return replace(histogram, lowest=histogram.lowest + exponent)


# -- curves ----------------------------------------------------------------------------------------


def merge_curves(runs: Sequence[RankRun]) -> Iterator[Curve]:
    """Each curve that every rank has, at the steps that every rank has."""
    names = dict.fromkeys(curve.name for run in runs for curve in run.history.curves)
    for name in names:
        found = [{c.name: c for c in run.history.curves}.get(name) for run in runs]
        curves = [curve for curve in found if curve is not None]
        if len(curves) < len(runs):
            continue
        points = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
        steps = sorted(set(points[0]).intersection(*points[1:]))
        join = _choose(name)
        rows = [unify_nan(each[step] for each in points) for step in steps]
        is_joined = join is not _take_first or all(len(set(row)) == 1 for row in rows)
        if steps:
            yield Curve(
                name=name,
                steps=tuple(steps),
                values=unify_nan(map(join, rows)),
                ranks=ALL if is_joined else f"rank {runs[0].rank}",
            )


def merge_norms(series: Sequence[Series], steps: Sequence[int], info: RankInfo) -> Iterator[Curve]:
    """The curves that no rank knows of shards, from the merged series: the norm of all gradients,
    and that of all updates over that of all parameters.
    """
    names = {*info.parameters, *info.sharded}
    gradients = [each for each in series if each.what == "gradient" and each.fqn in names]
    updates = [each for each in series if each.what == "update" and "ratio" in each.numbers]
    with np.errstate(divide="ignore", invalid="ignore"):
        if gradients:
            norm = _add_up(np.array([each["norm"] for each in gradients]))
            yield _draw("gradient norm", steps, norm)
        if updates:
            norms = np.array([each["norm"] for each in updates])
            ratios = np.array([each["ratio"] for each in updates])
            before = np.where(ratios > 0, norms / ratios, 0.0)
            yield _draw("update ratio", steps, _add_up(norms) / _add_up(before))


def _add_up(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sqrt(np.nansum(norms**2, axis=0))
    return total


def _draw(name: str, steps: Sequence[int], values: NDArray[np.float64]) -> Curve:
    return Curve(name=name, steps=tuple(steps), values=unify_nan(values.tolist()), ranks=ALL)


def _choose(name: str) -> Callable[[Sequence[float]], float]:
    """How the numbers of the ranks become one."""
    if name == "loss":
        return lambda values: sum(values) / len(values)
    if name in ("seconds", "living graphs"):
        return max
    return _take_first


def _take_first(values: Sequence[float]) -> float:
    return values[0]


# -- events ----------------------------------------------------------------------------------------


def merge_dead(runs: Sequence[RankRun]) -> Iterator[DeadChannels]:
    """Channels that were zero on every rank, over the same steps."""
    for dead in runs[0].history.dead:
        others = [
            next(
                (
                    set(each.channels)
                    for each in run.history.dead
                    if (each.fqn, each.call, each.first, each.last)
                    == (dead.fqn, dead.call, dead.first, dead.last)
                ),
                set[int](),
            )
            for run in runs[1:]
        ]
        channels = tuple(sorted(set(dead.channels).intersection(*others)))
        if channels:
            yield replace(dead, channels=channels)


def find_first_nonfinite(runs: Sequence[RankRun]) -> tuple[RankRun, NonFinite] | None:
    """The rank that met a NaN or Inf first, and where."""
    events = [(run, run.history.nonfinite) for run in runs]
    found = [(run, event) for run, event in events if event is not None]
    if not found:
        return None
    return min(found, key=lambda each: (each[1].step, _ORDER.index(each[1].what), each[0].rank))


def count_steps(runs: Sequence[RankRun]) -> int:
    """The steps that the furthest rank made."""
    return max(run.history.total for run in runs)


def describe_merge(history: History, runs: Sequence[RankRun], of: int) -> Iterator[str]:
    """What the numbers of the merged history are, in sentences."""
    averaged = (
        "; gradients of activations are those of the mean of the losses"
        if runs[0].info.wrapper
        else ""
    )
    yield (
        f"of {len(runs)} of {of} ranks: activations are of all their batches together, the loss is "
        f"the mean of theirs, seconds those of the slowest{averaged}"
    )
    furthest = max((run.history.steps[-1] for run in runs if run.history.steps), default=-1)
    if history.steps and history.steps[-1] < furthest:
        yield (
            f"steps after {history.steps[-1]} are not merged: not every rank has observed them "
            f"(the furthest is at {furthest})"
        )
