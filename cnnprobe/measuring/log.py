"""The log of a measurement: what is known so far as lines of JSON, replaced as a whole, so that a
kill at any moment leaves the file of the moment before.
"""

import contextlib
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from cnnprobe.errors import ProbeError, UsageError, warn
from cnnprobe.measuring.totals import Totals, to_measured, to_total
from cnnprobe.records import reading, schema
from cnnprobe.records.measured import Measured

KIND = "MeasurementLog"
PAUSE = 5.0  # seconds between two writings, at least
FACTOR = 20  # times what one takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is measured: a log is gone on with only where all of this is the same."""

    model: str
    weights: int  # a checksum
    data: str
    samples: int
    batch_size: int
    rank: int = 0
    of: int = 1


_SAID = {
    "model": "the model is a {}, that of the log a {}",
    "weights": "the weights are not those of the log",
    "data": "the data is {}, that of the log {}",
    "samples": "the data has {} samples, that of the log {}",
    "batch_size": "the batch size is {}, that of the log {}",
    "rank": "this is rank {}, the log is of rank {}",
    "of": "the number of processes is {}, that of the log {}",
}


class Log:
    """Writes the totals of a job now and then; a disk that is full is said once."""

    def __init__(self, path: Path | None, job: Job) -> None:
        self._path = path
        self._job = job
        self._next = time.monotonic() + PAUSE  # when it is written again
        self.failure = ""

    def read(self) -> tuple[Totals, int]:
        """What an earlier run has written, and how many batches of this process are in it.

        Raises:
            UsageError: the log is of something else.
            ProbeError: it is damaged, or no log of a measurement.
        """
        if self._path is None or not self._path.exists():
            return {}, 0
        where = str(self._path)
        try:
            first, *lines = self._path.read_text(encoding="utf-8").splitlines() or [""]
        except (OSError, UnicodeDecodeError) as error:
            raise ProbeError(
                f"the log cannot be read: {error}", where=where, fix="give another file"
            ) from error
        said = schema.parse(first, expected=KIND, where=where)
        done = int(said.pop("done", 0))
        self._compare(reading.read_plain(Job, said), where)
        measured = (
            reading.read_plain(Measured, schema.parse(line, expected="Measured", where=where))
            for line in lines
        )
        return dict(map(to_total, measured)), done

    def _compare(self, known: Job, where: str) -> None:
        ours, theirs = asdict(self._job), asdict(known)
        for name, sentence in _SAID.items():
            if ours[name] != theirs[name]:
                raise UsageError(
                    sentence.format(ours[name], theirs[name]),
                    where=where,
                    fix="give another log, or delete this one to begin anew",
                )

    def write(self, totals: Totals, done: int, *, last: bool = False) -> None:
        """Write what is known, unless that was just done."""
        if self._path is None or (time.monotonic() < self._next and not last):
            return
        began = time.monotonic()
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            with draft.open("w", encoding="ascii") as file:
                file.writelines(self._list_lines(totals, done))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            if not self.failure:
                self.failure = f"{self._path} could not be written ({error.strerror or error})"
                warn(f"{self.failure}; the measurement goes on")
        now = time.monotonic()
        self._next = now + max(PAUSE, FACTOR * (now - began))

    def _list_lines(self, totals: Totals, done: int) -> Iterator[str]:
        yield schema.to_text(KIND, {**asdict(self._job), "done": done})
        for key, total in totals.items():
            measured = to_measured(key, total)
            if measured is not None:
                yield schema.to_text("Measured", schema.to_plain(measured))


def name_log(path: str | os.PathLike[str] | None, *, rank: int, of: int) -> Path | None:
    """The file of this process: "stats.rank1.jsonl" for "stats.jsonl" where there are several."""
    if path is None:
        return None
    given = Path(path)
    return given if of < 2 else given.with_name(f"{given.stem}.rank{rank}{given.suffix}")


def check_weights(model: nn.Module) -> int:
    """A checksum of all parameters and buffers, in their order."""
    checksum = 0
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                checksum = zlib.crc32(flat.numpy().tobytes(), checksum)
    return checksum
