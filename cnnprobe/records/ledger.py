"""The book of a training run in memory: rows of numbers step by step, thinned where they become
many. No torch.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cnnprobe.records import thinning
from cnnprobe.records.averages import Averages
from cnnprobe.records.history import (
    STATISTICS,
    Curve,
    DeadChannels,
    History,
    LivingGraph,
    NonFinite,
    Series,
    What,
    unify_nan,
)
from cnnprobe.records.ranks import (
    RankInfo,
    RankLog,
    RankStep,
    name_owner,
    name_owner_of_curve,
)
from cnnprobe.records.statistics import COUNT, INF, L2, MAX, MEAN, MIN, NAN, STD, SUMMED
from cnnprobe.records.trace import Histogram

COLUMNS = (*STATISTICS, "extra")
"""The numbers of a row; the extra one is the "ratio" of an update and the "dead" channels of an
activation, NaN where there is none.
"""

EXTRA = len(STATISTICS)
_EXTRAS = {"update": "ratio", "activation": "dead"}
_POINTS = 4096  # of a curve, before it is thinned to half as many
_ENTRIES = (128, 1024)  # observed steps, before they are thinned: at least, and at most
_NUMBERS = 2**22  # in all of them together where there are many slots: 32 MiB
Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What a row is about."""

    fqn: str
    what: What
    call: int = 0
    output: str = ""
    kind: str = ""
    is_parameters: bool = False  # a gradient: that of a parameter, not of an activation

    @property
    def code(self) -> int:
        """What it is about as a number: an index into CODES."""
        return CODES.index((self.what, self.is_parameters))


CODES: tuple[tuple[What, bool], ...] = (
    ("parameter", False),
    ("activation", False),
    ("gradient", False),
    ("gradient", True),
    ("update", False),
)


@dataclass(slots=True, kw_only=True)
class Ledger:
    """A run as it is being written down; `history` is what it says so far. Its size does not grow
    with the number of steps.
    """

    model: str
    slots: list[Slot] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)  # for each step (slots known then, COLUMNS)
    histograms: list[Mapping[int, Histogram]] = field(
        default_factory=list
    )  # for each step, by slot
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    losses: Averages = field(default_factory=Averages)  # of the curve "loss"
    thinned: int = 0  # observed steps that are no longer in `steps`
    total: int = 0
    nonfinite: NonFinite | None = None
    dead: tuple[DeadChannels, ...] = ()
    kept: tuple[LivingGraph, ...] = ()
    notes: dict[str, None] = field(default_factory=dict)
    rank: RankInfo | None = None  # this process, where there are several
    rank_steps: list[RankStep] = field(default_factory=list)
    loss_scale: float | None = None  # the gradient that the loss got
    finished: bool = False
    _codes: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, dtype=np.int8))
    _places: dict[Slot, int] = field(default_factory=dict)

    def codes(self) -> NDArray[np.int8]:
        """For each slot the index into CODES."""
        known = len(self._codes)
        if known < len(self.slots):
            self._codes = np.concatenate(
                [self._codes, np.array([slot.code for slot in self.slots[known:]], dtype=np.int8)]
            )
        return self._codes

    def put(self, name: str, step: int, value: float) -> None:
        """One point of a curve; a second one for the same step replaces the first."""
        steps, values = self.curves.setdefault(name, ([], []))
        if steps and steps[-1] == step:
            values[-1] = value
        else:
            steps.append(step)
            values.append(value)
            if len(steps) > _POINTS:
                self.curves[name] = thinning.thin_points(steps, values, _POINTS // 2)
        if name == "loss":
            self.losses.add(step, value)

    def place(self, slot: Slot) -> int:
        """The number of this slot; a new one where it is not known."""
        if slot not in self._places:
            self.know(slot)
        return self._places[slot]

    def know(self, slot: Slot) -> None:
        """Give this slot the next number."""
        self._places.setdefault(slot, len(self.slots))
        self.slots.append(slot)

    def add(
        self,
        step: int,
        slots: Sequence[int] | NDArray[np.int64],
        rows: Rows,
        histograms: Mapping[int, Histogram] | None = None,
    ) -> None:
        """The rows of an observed step, shape (rows, COLUMNS); several of one slot are put together
        as if they had been one tensor.
        """
        whole = merge_rows(np.asarray(slots, dtype=np.int64), rows, len(self.slots))
        # A norm is that of the finite values; where there are none, 0 would look like a gradient
        # that has vanished.
        whole[(whole[:, COUNT] > 0) & (whole[:, NAN] + whole[:, INF] >= whole[:, COUNT]), L2] = (
            math.nan
        )
        self.append(step, whole, histograms or {})

    def append(self, step: int, rows: Rows, histograms: Mapping[int, Histogram]) -> None:
        """An observed step as it is to stand here: a row for each slot that is known by now."""
        self.steps.append(step)
        self.rows.append(rows)
        self.histograms.append(histograms)
        fewest, most = _ENTRIES
        most = max(fewest, min(most, _NUMBERS // (max(len(self.slots), 1) * len(COLUMNS))))
        if len(self.steps) > most:
            self._thin(thinning.choose_groups(self.steps, most))

    def _thin(self, groups: thinning.Groups) -> None:
        before = len(self.steps)
        self.steps = thinning.merge_groups(self.steps, groups, thinning.pick_ends)
        self.rows = thinning.merge_groups(self.rows, groups, thinning.envelop_entries)
        self.histograms = thinning.merge_groups(self.histograms, groups, thinning.pick_ends)
        self.thinned += before - len(self.steps)

    def rewind(self, step: int) -> None:
        """Go back to before this step: what came at it or later is forgotten."""
        known = bisect_left(self.steps, step)
        for part in (self.steps, self.rows, self.histograms):
            del part[known:]
        for name, (steps, values) in list(self.curves.items()):
            known = bisect_left(steps, step)
            del steps[known:], values[known:]
            if not steps:
                del self.curves[name]
        self.losses.rewind(step)
        self.rank_steps = [each for each in self.rank_steps if each.step < step]
        if self.nonfinite is not None and self.nonfinite.step >= step:
            self.nonfinite = None
        self.total, self.dead, self.kept, self.finished = step, (), (), False

    def history(self) -> History:
        """Everything so far, as data that will not change."""
        return History(
            model=self.model,
            steps=tuple(self.steps),
            thinned=self.thinned,
            total=self.total,
            curves=tuple(
                Curve(
                    name=name,
                    steps=tuple(steps),
                    values=unify_nan(values),
                    ranks=name_owner_of_curve(self.rank, name),
                )
                for name, (steps, values) in self.curves.items()
            ),
            series=tuple(self._build_series()),
            nonfinite=self.nonfinite,
            dead=self.dead,
            kept=self.kept,
            notes=tuple(self.notes),
            rank=self._rank_log(),
        )

    def _rank_log(self) -> RankLog | None:
        if self.rank is None:
            return None
        return RankLog(
            info=self.rank,
            steps=tuple(self.rank_steps),
            loss_scale=self.loss_scale,
            finished=self.finished,
        )

    def cube(self) -> Rows:
        """All numbers, shape (slots, steps, COLUMNS); NaN where nothing was seen."""
        cube = np.full((len(self.slots), len(self.steps), len(COLUMNS)), np.nan)
        for i, rows in enumerate(self.rows):
            cube[: len(rows), i] = rows
        return cube

    def _build_series(self) -> Iterable[Series]:
        cube = self.cube()
        for k, slot in enumerate(self.slots):
            mine = cube[k]
            named = {
                name: unify_nan(mine[:, i].tolist())
                for i, name in enumerate(STATISTICS)
                if slot.what != "update" or name == "norm"
            }
            if slot.what in _EXTRAS and not np.isnan(mine[:, EXTRA]).all():
                named[_EXTRAS[slot.what]] = unify_nan(mine[:, EXTRA].tolist())
            spreads = tuple(step.get(k) for step in self.histograms)
            yield Series(
                fqn=slot.fqn, what=slot.what, call=slot.call, output=slot.output, kind=slot.kind,
                numbers=named,
                histograms=spreads if any(spread is not None for spread in spreads) else (),
                ranks=name_owner(self.rank, slot.fqn),
            )  # fmt: skip


def merge_rows(slots: NDArray[np.int64], rows: Rows, count: int) -> Rows:
    """One row for each of `count` slots, NaN where there was none; rows of the same slot by Chan's
    formula.

    Source: Chan, Golub, LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances".
    """
    result = np.full((count, len(COLUMNS)), np.nan)
    if not len(slots) or np.bincount(slots, minlength=count).max() == 1:
        result[slots] = rows
        return result
    sums = np.zeros((count, len(COLUMNS)))
    np.add.at(sums, slots, np.nan_to_num(rows, nan=0.0))
    finite = rows[:, COUNT] - rows[:, NAN] - rows[:, INF]
    n = np.zeros(count)
    np.add.at(n, slots, finite)
    means = np.where(finite > 0, rows[:, MEAN], 0.0)
    mean, squares, norm = np.zeros(count), np.zeros(count), np.zeros(count)
    np.add.at(mean, slots, finite / np.maximum(n[slots], 1) * means)
    deviations = np.where(finite > 0, np.hypot(rows[:, STD], means - mean[slots]), 0.0)
    np.add.at(squares, slots, finite / np.maximum(n[slots], 1) * deviations**2)
    np.add.at(norm, slots, rows[:, L2] ** 2)
    seen = np.isin(np.arange(count), slots)
    for column in map(STATISTICS.index, SUMMED):
        result[seen, column] = sums[seen, column]
    some = n > 0
    result[some, MEAN], result[some, STD] = mean[some], np.sqrt(squares[some])
    result[seen, L2] = np.sqrt(norm[seen])
    np.fmin.at(result[:, MIN], slots, rows[:, MIN])
    np.fmax.at(result[:, MAX], slots, rows[:, MAX])
    np.fmax.at(result[:, EXTRA], slots, rows[:, EXTRA])
    return result
