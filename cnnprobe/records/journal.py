"""The book of a training run on disk: lines of JSON that survive a kill. No torch."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from cnnprobe.errors import ProbeError
from cnnprobe.records import reading, schema
from cnnprobe.records.history import DeadChannels, History, LivingGraph, NonFinite
from cnnprobe.records.ledger import COLUMNS, Ledger, Slot
from cnnprobe.records.ranks import RankInfo, RankStep, keep_step
from cnnprobe.records.statistics import COUNT, L2
from cnnprobe.records.trace import Histogram, Trace

KIND = "Journal"


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
            ledger.finished = True

        self._take_rank(said)

    def _take_rank(self, said: Mapping[str, Any]) -> None:
        """What a process says of itself, where there are several."""
        ledger = self.ledger
        if "rank" in said:
            ledger.rank = reading.read_plain(RankInfo, said["rank"])
        if "rank_step" in said:
            keep_step(ledger.rank_steps, reading.read_plain(RankStep, said["rank_step"]))
        if "loss_scale" in said:
            ledger.loss_scale = reading.read_plain(float | None, said["loss_scale"])

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
