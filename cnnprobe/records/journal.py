"""The book of a training run: rows of numbers step by step, kept in memory and, line by line, in a
file that survives a kill. No torch.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cnnprobe.errors import ProbeError
from cnnprobe.records import reading, schema
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
from cnnprobe.records.statistics import COUNT, INF, L2, MAX, MEAN, MIN, NAN, STD, SUMMED
from cnnprobe.records.trace import Histogram, Trace

KIND = "Journal"
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
                Curve(name=name, steps=tuple(steps), values=unify_nan(values))
                for name, (steps, values) in self.curves.items()
            ),
            series=tuple(self._build_series()),
            nonfinite=self.nonfinite,
            dead=self.dead,
            kept=self.kept,
            notes=tuple(self.notes),
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


# ---------------------------------------------------------------- the file


class Journal:
    """Appends to a file of JSON lines; each is there as a whole as soon as it is written, whatever
    becomes of the process.
    """

    def __init__(self, path: str | os.PathLike[str], model: str) -> None:
        self._known = 0  # slots that the file has
        try:
            self._file: IO[str] = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 - open as long as the run
        except OSError as error:
            fix = "choose an existing folder that you can write to"
            raise ProbeError(
                f"the journal cannot be written: {error.strerror or error}",
                where=str(path),
                fix=fix,
            ) from error
        self._file.write(schema.to_text(KIND, {"model": model}))
        self._file.flush()

    def write(self, **what: Any) -> None:
        """One line; dataclasses become plain data. A full disk ends the journal, not the run."""
        with contextlib.suppress(OSError, ValueError):
            plain = {
                key: value if key == "rows" else schema.to_plain(value)
                for key, value in what.items()
            }
            self._file.write(json.dumps(plain, allow_nan=False) + "\n")
            self._file.flush()

    def step(self, ledger: Ledger, step: int, *, observed: bool) -> None:
        """What the ledger says of this step."""
        if len(ledger.slots) > self._known:
            self.write(slots=ledger.slots[self._known :])
            self._known = len(ledger.slots)
        points = {
            name: values[-1] for name, (steps, values) in ledger.curves.items() if steps[-1] == step
        }
        if not observed:
            self.write(step=step, curves=points)
            return
        rows = ledger.rows[-1]
        seen = np.flatnonzero(~np.isnan(rows[:, (COUNT, L2)]).all(1))
        plain = [
            [k, *map(_write_value, values)]
            for k, values in zip(seen.tolist(), rows[seen].tolist(), strict=True)
        ]
        more = (
            {"histograms": [[k, h] for k, h in ledger.histograms[-1].items()]}
            if ledger.histograms[-1]
            else {}
        )
        self.write(step=step, curves=points, rows=plain, **more)

    def close(self, total: int) -> None:
        """The last line."""
        self.write(end=True, total=total)
        with contextlib.suppress(OSError):
            self._file.close()


def _write_value(value: float) -> Any:
    return value if math.isfinite(value) else None if math.isnan(value) else schema.to_plain(value)


def read_journal(path: str | os.PathLike[str]) -> tuple[Trace, History, Any]:
    """Trace, history and the plain findings in a journal; of a run that was killed everything up to
    the last whole line.

    Raises:
        ProbeError: the file is not there, is no journal, or comes from a newer version.
    """
    where = str(path)
    try:
        first, *lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ProbeError(
            f"the journal cannot be read: {error.strerror or error}",
            where=where,
            fix="check the path",
        ) from error
    except UnicodeDecodeError as error:
        raise ProbeError(
            "this is not JSON text",
            where=where,
            fix="give a file written by cnnprobe.monitor(log=...)",
        ) from error
    model = str(schema.parse(first, expected=KIND, where=where).get("model", ""))
    book = _Reading(Ledger(model=model), Trace(model=model))
    for number, line in enumerate(lines, start=2):
        try:
            said = json.loads(line) if line else {}
        except ValueError as error:
            if any(lines[number - 1 :]):
                raise ProbeError(
                    f"line {number} is not JSON: {error}",
                    where=where,
                    fix="the file was changed; use another copy",
                ) from error
            break  # the line that a kill cut off
        try:
            book.take(said)
        except (ProbeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            fix = "it was changed, or written by another version of cnnprobe"
            raise ProbeError(
                f"line {number} of the journal is damaged: {error}", where=where, fix=fix
            ) from error
    return book.trace, book.finish(), book.findings


@dataclass(slots=True)
class _Reading:
    """A journal while it is being read."""

    ledger: Ledger
    trace: Trace
    findings: Any = field(default_factory=list)
    ended: bool = False

    def take(self, said: Mapping[str, Any]) -> None:
        ledger = self.ledger
        if "slots" in said:
            ledger.slots += reading.read_plain(tuple[Slot, ...], said["slots"])
        if "step" in said:
            self._step(said)
        if "trace" in said:
            self.trace = reading.read_plain(Trace, said["trace"])
        if "nonfinite" in said:
            ledger.nonfinite = reading.read_plain(NonFinite | None, said["nonfinite"])
        if "dead" in said:
            ledger.dead = reading.read_plain(tuple[DeadChannels, ...], said["dead"])
        if "kept" in said:
            ledger.kept = reading.read_plain(tuple[LivingGraph, ...], said["kept"])
        if "note" in said:
            ledger.notes[str(said["note"])] = None
        self.findings = said.get("findings", self.findings)
        if said.get("end"):
            self.ended, ledger.total = True, int(said["total"])

    def _step(self, said: Mapping[str, Any]) -> None:
        step = int(said["step"])
        self.ledger.total = max(self.ledger.total, step + 1)
        for name, value in said["curves"].items():
            self.ledger.put(name, step, reading.read_plain(float, value))
        if "rows" in said:
            slots = [int(slot) for slot, *_ in said["rows"]]
            rows = np.array(
                [[_read_number(v) for v in numbers] for _, *numbers in said["rows"]]
            ).reshape(-1, len(COLUMNS))
            spreads = {
                int(k): reading.read_plain(Histogram, h) for k, h in said.get("histograms", ())
            }
            self.ledger.add(step, slots, rows, spreads)

    def finish(self) -> History:
        if not self.ended:
            self.ledger.notes["the run did not finish; this is what it had written until then"] = (
                None
            )
        return self.ledger.history()


def _read_number(value: Any) -> float:
    return math.nan if value is None else float(reading.read_plain(float, value))
