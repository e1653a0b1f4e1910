"""The book of a training run in memory: rows of numbers step by step. No torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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
    """A run as it is being written down; `history` is what it says so far."""

    model: str
    slots: list[Slot] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)  # for each step (slots known then, COLUMNS)
    histograms: list[Mapping[int, Histogram]] = field(
        default_factory=list
    )  # for each step, by slot
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
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
        self.steps.append(step)
        whole = merge_rows(np.asarray(slots, dtype=np.int64), rows, len(self.slots))
        # A norm is that of the finite values; where there are none, 0 would look like a gradient
        # that has vanished.
        whole[(whole[:, COUNT] > 0) & (whole[:, NAN] + whole[:, INF] >= whole[:, COUNT]), L2] = (
            math.nan
        )
        self.rows.append(whole)
        self.histograms.append(histograms or {})

    def history(self) -> History:
        """Everything so far, as data that will not change."""
        return History(
            model=self.model,
            steps=tuple(self.steps),
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
                fqn=slot.fqn, what=slot.what, call=slot.call, output=slot.output, kind=slot.kind, numbers=named,
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
