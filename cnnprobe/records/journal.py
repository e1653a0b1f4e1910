"""The book of a training run on disk: lines of JSON that survive a kill. No torch.

A file that grows too large is replaced by one that begins with the run so far, thinned as it is in
memory; the one before stays beside it, under the same name with ".1" behind it.
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from cnnprobe.errors import ProbeError, warn
from cnnprobe.records import reading, schema
from cnnprobe.records.averages import Stretch
from cnnprobe.records.history import DeadChannels, History, LivingGraph, NonFinite
from cnnprobe.records.ledger import COLUMNS, Ledger, Rows, Slot
from cnnprobe.records.packing import (
    pack_histograms,
    pack_rows,
    unpack_histogram,
    unpack_rows,
    write_briefly,
)
from cnnprobe.records.ranks import RankInfo, RankStep, keep_step
from cnnprobe.records.trace import Histogram, Trace

KIND = "Journal"
LARGEST = 64 * 2**20  # bytes of a file
_SURVIVED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""What the run goes on after, without a journal; a wrong path is said at once instead."""


class Journal:
    """Appends to a file of JSON lines; each is there as a whole as soon as it is written, whatever
    becomes of the process. What cannot be written ends no run: it is said once, in `failure`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: str,
        *,
        keep: int | None = None,
        slots: int = 0,
    ) -> None:
        """A new file, or one that goes on after its first `keep` bytes, with `slots` known."""
        self.path = Path(path)
        self.failure = ""
        self._model = model
        self._largest = LARGEST
        self._known = slots if keep is not None else 0  # slots that the file has
        self._said: dict[str, Any] = {}  # what the file says of the whole run, by name
        self._size = keep or 0
        self._file: Any = None
        try:
            self._file = self._open(keep)
        except OSError as error:
            if error.errno not in _SURVIVED:
                fix = "choose an existing folder that you can write to"
                raise ProbeError(
                    f"the journal cannot be written: {error.strerror or error}",
                    where=str(path),
                    fix=fix,
                ) from error
            self._give_up(error)

    def _open(self, keep: int | None) -> Any:
        """The file without a buffer: what was written is with the system, or an error was
        raised.
        """
        if keep is None:
            return self.path.open("wb", buffering=0)
        file = self.path.open("r+b", buffering=0)
        file.truncate(keep)
        file.seek(keep)
        return file

    def _put(self, text: str) -> bool:
        """Write whole lines, or nothing; whether they are there."""
        if self._file is None:
            return False
        if not self._size:
            text = self._begin() + text
        data = text.encode("ascii", "backslashreplace")
        try:
            _write_whole(self._file, data)
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError, ValueError):  # a part of a line would damage the file
                self._file.truncate(self._size)
                self._file.seek(self._size)
            self._give_up(error)
            return False
        self._size += len(data)
        return True

    def _begin(self) -> str:
        return schema.to_text(KIND, {"model": self._model, "columns": COLUMNS})

    def _give_up(self, error: Exception) -> None:
        """Say once that something was not written; what comes later is tried all the same."""
        if self.failure:
            return
        said = getattr(error, "strerror", None) or str(error)
        self.failure = f"{self.path} could not be written ({said}); the training goes on"
        warn(self.failure)

    def write(self, **what: Any) -> bool:
        """One line, dataclasses as plain data; whether it is there."""
        return self._put(_write_line(what))

    def say(self, **what: Any) -> None:
        """A line of each fact about the whole run that is not what the file says already."""
        for name, value in what.items():
            if self._said.get(name) != value and self.write(**{name: value}):
                self._said[name] = value

    def has(self, name: str) -> bool:
        """Whether a fact of this name was said."""
        return name in self._said

    def step(self, ledger: Ledger, step: int, *, observed: bool) -> None:
        """What the ledger says of this step."""
        if len(ledger.slots) > self._known and self.write(slots=ledger.slots[self._known :]):
            self._known = len(ledger.slots)
        points = {
            name: values[-1] for name, (steps, values) in ledger.curves.items() if steps[-1] == step
        }
        more = _describe_rows(ledger.rows[-1], ledger.histograms[-1]) if observed else {}
        self.write(step=step, curves=points, **more)
        if self._size > self._largest:
            self._rotate(ledger)

    def close(self, total: int) -> None:
        """The last line."""
        self.write(end=True, total=total)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    # -- a file that has grown too large -----------------------------------------------------------

    def _rotate(self, ledger: Ledger) -> None:
        """Put a file with the run so far in the place of this one. At each moment there is a whole
        one of this name.
        """
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with draft.open("wb") as file:
                for line in self._repeat(ledger):
                    file.write(line.encode("ascii", "backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
            size = draft.stat().st_size
            self._keep_previous()
            draft.replace(self.path)
            self._file.close()
            self._file = self.path.open("ab", buffering=0)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            self._largest += LARGEST  # a full disk may have room later; this file goes on meanwhile
            return
        self._size = size
        self._largest = max(self._largest, 2 * size)

    def _keep_previous(self) -> None:
        """Give the file a second name, where the file system has such."""
        spare = self.path.with_name(f".{self.path.name}.{os.getpid()}.old")
        with contextlib.suppress(OSError):
            os.link(self.path, spare)
            spare.replace(self.path.with_name(f"{self.path.name}.1"))

    def _repeat(self, ledger: Ledger) -> Iterator[str]:
        """The run so far: what was said of the whole, and each step that is still known."""
        yield self._begin()
        for name, value in self._said.items():
            if name != "rank_step":
                yield _write_line({name: value})
        for rank_step in ledger.rank_steps:
            yield _write_line({"rank_step": rank_step})
        for note in ledger.notes:
            yield _write_line({"note": note})
        yield _write_line({"slots": ledger.slots})
        points: dict[int, dict[str, float]] = {}
        for name, (steps, values) in ledger.curves.items():
            for step, value in zip(steps, values, strict=True):
                points.setdefault(step, {})[name] = value
        place = {step: i for i, step in enumerate(ledger.steps)}
        for step in sorted({*points, *place}):
            at = place.get(step)
            more = {} if at is None else _describe_rows(ledger.rows[at], ledger.histograms[at])
            yield _write_line({"step": step, "again": True, "curves": points.get(step, {}), **more})
        yield _write_line(
            {
                "thinned": ledger.thinned,
                "losses": tuple(ledger.losses.stretches),
                "total": ledger.total,
            }
        )


def _write_whole(file: IO[bytes], data: bytes) -> None:
    if file.write(data) != len(data):  # as on a disk that becomes full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_line(what: Mapping[str, Any]) -> str:
    plain = {key: _make_plain(value) for key, value in what.items()}
    return json.dumps(plain, allow_nan=False, separators=(",", ":")) + "\n"


def _make_plain(value: Any) -> Any:
    return write_briefly(value) if isinstance(value, RankStep) else schema.to_plain(value)


def _describe_rows(rows: Rows, histograms: Mapping[int, Histogram]) -> dict[str, Any]:
    found: dict[str, Any] = {"packed": pack_rows(rows)}
    return found | ({"histograms": pack_histograms(histograms)} if histograms else {})


# ---------------------------------------------------------------- reading


def read_journal(path: str | os.PathLike[str]) -> tuple[Trace, History, Any]:
    """Trace, history and the plain findings in a journal; of a run that was killed everything up to
    the last whole line.

    Raises:
        ProbeError: the file is not there, is no journal, or comes from a newer version.
    """
    book = open_journal(path)
    return book.trace, book.finish(), book.findings


def open_journal(path: str | os.PathLike[str]) -> "Reading":
    """The same as it stands in the file, so that a run may go on with it; raises as
    `read_journal`.
    """
    where = str(path)
    try:
        with Path(path).open("rb") as file:
            return _read_lines(file, where)
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


def _read_lines(file: IO[bytes], where: str) -> "Reading":
    first = file.readline()
    head = schema.parse(first.decode(), expected=KIND, where=where)
    model, columns = str(head.get("model", "")), tuple(head.get("columns", COLUMNS))
    book = Reading(Ledger(model=model), Trace(model=model), columns, size=len(first))
    for number, line in enumerate(file, start=2):
        try:
            said = json.loads(line.decode()) if line.strip() else {}
        except ValueError as error:
            if file.readline():
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
        book.size += len(line)
    return book


_FACTS: Mapping[str, Any] = {
    "nonfinite": NonFinite | None,
    "dead": tuple[DeadChannels, ...],
    "kept": tuple[LivingGraph, ...],
}
"""What is said of the whole run, by its name in the ledger."""


@dataclass(slots=True)
class Reading:
    """A journal while it is being read."""

    ledger: Ledger
    trace: Trace
    columns: tuple[str, ...] = COLUMNS  # of the packed numbers
    findings: Any = field(default_factory=list)
    ended: bool = False
    size: int = 0  # bytes of whole lines

    def take(self, said: Mapping[str, Any]) -> None:
        """What one line says."""
        ledger = self.ledger
        for slot in reading.read_plain(tuple[Slot, ...], said.get("slots", [])):
            ledger.know(slot)
        if "resumed" in said:
            self.ended, self.findings, ledger.finished = False, [], False
            ledger.rewind(int(said["resumed"]))
        if "step" in said:
            self._step(said)
        if "trace" in said:
            self.trace = reading.read_plain(Trace, said["trace"])
        for name in _FACTS.keys() & said.keys():
            setattr(ledger, name, reading.read_plain(_FACTS[name], said[name]))
        if "note" in said:
            ledger.notes[str(said["note"])] = None
        if "thinned" in said:
            self._repeat(said)
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

    def _repeat(self, said: Mapping[str, Any]) -> None:
        """What a file that has replaced another says at the end of the run until then."""
        ledger = self.ledger
        ledger.thinned, ledger.total = int(said["thinned"]), int(said["total"])
        ledger.losses.stretches = list(reading.read_plain(tuple[Stretch, ...], said["losses"]))

    def _step(self, said: Mapping[str, Any]) -> None:
        step = int(said["step"])
        ledger = self.ledger
        ledger.total = max(ledger.total, step + 1)
        for name, value in said["curves"].items():
            ledger.put(name, step, reading.read_plain(float, value))
        spreads = dict(unpack_histogram(each) for each in said.get("histograms", ()))
        if "packed" in said:
            most = len(ledger.slots)
            ledger.append(step, unpack_rows(said["packed"], self.columns, most=most), spreads)
        elif "rows" in said:
            self._take_rows(said, spreads)

    def _take_rows(self, said: Mapping[str, Any], spreads: Mapping[int, Histogram]) -> None:
        """The numbers of a step in figures, as older logs have them."""
        step, ledger = int(said["step"]), self.ledger
        slots = [int(slot) for slot, *_ in said["rows"]]
        rows = np.array(
            [[_read_number(v) for v in numbers] for _, *numbers in said["rows"]]
        ).reshape(-1, len(COLUMNS))
        if said.get("again"):
            whole = np.full((len(ledger.slots), len(COLUMNS)), np.nan)
            whole[slots] = rows
            ledger.append(step, whole, spreads)
        else:
            ledger.add(step, slots, rows, spreads)

    def finish(self) -> History:
        """The run as far as it is there."""
        if not self.ended:
            self.ledger.notes["the run did not finish; this is what it had written until then"] = (
                None
            )
        return self.ledger.history()


def _read_number(value: Any) -> float:
    return math.nan if value is None else float(reading.read_plain(float, value))
