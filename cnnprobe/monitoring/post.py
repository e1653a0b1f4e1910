"""What each rank tells of its latest steps, and how it goes through the store of the process group.

A rank has one key with a line for each of its latest steps, which it overwrites, and a ring of keys
with a hash of each tensor, which are read only where a hash of all of them differs. No call waits
for another rank: every key is read where it is there.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnnprobe.records import reading, schema
from cnnprobe.records.history import NonFinite
from cnnprobe.records.ranks import RankInfo, RankStep

LATEST = 256  # steps that are kept: as many as there may be between two talks
_AGAIN = (32, 0.25)  # steps that a rank tells again, or for how many seconds where that is more
_RING = (8, 4096)  # steps whose hashes of each tensor are kept, or as many hashes where more fit
_EAGER = 20.0  # seconds in which a rank that has told nothing is looked for each time
_SELDOM = 5.0  # seconds between two such looks later: on some ranks there may be no monitor
_COMPARED = ("samples", "seconds", "queued", "parameters", "buffers", "without_gradient")
"""Of a step, what the rules need that judge it while the ranks train."""

Hashes = tuple[str, str]  # of the parameters and of the buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What one rank tells: those of its observed steps that are new."""

    steps: tuple[RankStep, ...] = ()
    total: int = 0  # steps that it made
    nonfinite: NonFinite | None = None
    done: bool = False  # its block is left


class Post:
    """The store, as one rank uses it."""

    def __init__(self, store: Any, name: str, info: RankInfo) -> None:
        self._store = store
        self._name = name
        self._info = info
        self._beat = 0
        self._short: dict[int, RankStep] = {}  # this rank's latest steps
        self._lines: deque[tuple[float, str]] = deque(maxlen=LATEST)  # when, and what it has told
        self._unknown = set(range(info.of)) - {info.rank}  # ranks that have told nothing yet
        self._begun = self._sought = time.monotonic()
        self._infos: dict[int, RankInfo] = {}
        self._read: dict[int, tuple[bytes, int]] = {}  # of each what was last read, and its step

    def shorten(self, step: RankStep) -> RankStep:
        """One hash of all parameters and one of all buffers, in the place of one for each."""
        if step.step not in self._short:
            self._short[step.step] = replace(
                step, parameters=_digest(step.parameters), buffers=_digest(step.buffers)
            )
            if len(self._short) > LATEST:
                del self._short[next(iter(self._short))]
        return self._short[step.step]

    def put(self, telling: Telling) -> None:
        """Tell the others; a second time it says that this rank still runs."""
        key = self._key(self._info.rank)
        if not self._beat:
            self._store.set(f"{key}/info", json.dumps(schema.to_plain(self._info)))
        self._beat += 1
        head = [self._beat, telling.total, telling.done, schema.to_plain(telling.nonfinite)]
        hashes = {}
        for step in telling.steps:
            hashes[_name_hashes(key, self._info, step.step)] = _write_hashes(step)
            self._lines.append((time.monotonic(), _write_line(self.shorten(step))))
        text = "\n".join([json.dumps(head), *self._tell_again()])
        # The hashes first: who finds a step finds its hashes.
        self._store.multi_set([*hashes, key], [*hashes.values(), text])

    def _tell_again(self) -> Iterator[str]:
        """The latest lines, as the others may not have read them yet."""
        fewest, seconds = _AGAIN
        now, lines = time.monotonic(), self._lines
        while len(lines) > fewest and now - lines[0][0] > seconds:
            lines.popleft()
        return (line for _, line in lines)

    def look(self) -> Iterator[tuple[int, Telling]]:
        """What is new from the other ranks: the steps that were not read before."""
        self._seek()
        keys = [self._key(rank) for rank in self._read]
        found = self._store.multi_get(keys) if keys else []
        for rank, data in zip(list(self._read), map(bytes, found), strict=True):
            before, latest = self._read[rank]
            if data != before:
                telling = _read_telling(data.decode(), latest)
                self._read[rank] = data, max([latest, *(step.step for step in telling.steps)])
                yield rank, telling

    def read_info(self, rank: int) -> RankInfo:
        """How the model of a rank that has told something is distributed."""
        if rank not in self._infos:
            data = self._store.get(f"{self._key(rank)}/info")
            self._infos[rank] = reading.read_plain(RankInfo, json.loads(data))
        return self._infos[rank]

    def read_hashes(self, ranks: Iterable[int], number: int) -> dict[int, Hashes]:
        """A hash of each tensor in a step that these ranks have told lately."""
        asked = list(ranks)
        keys = [_name_hashes(self._key(rank), self.read_info(rank), number) for rank in asked]
        found: Sequence[Any] = self._store.multi_get(keys) if keys else []
        told = {}
        for rank, data in zip(asked, map(bytes, found), strict=True):
            step, parameters, buffers = data.decode().split(" ")
            if int(step) == number:  # else a later step has its place in the ring
                told[rank] = parameters, buffers
        return told

    def _key(self, rank: int) -> str:
        return f"cnnprobe/{self._name}/{rank}"

    def _seek(self) -> None:
        """Look for ranks that have told nothing yet."""
        now = time.monotonic()
        if self._unknown and (now - self._begun < _EAGER or now - self._sought >= _SELDOM):
            self._sought = now
            there = {rank for rank in self._unknown if self._store.check([self._key(rank)])}
            self._unknown -= there
            self._read |= dict.fromkeys(sorted(there), (b"", -1))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest() if text else ""


def _name_hashes(key: str, info: RankInfo, number: int) -> str:
    tensors = 1 + len(info.parameters) + len(info.buffers)
    fewest, hashes = _RING
    return f"{key}/hashes/{number % max(fewest, min(LATEST, hashes // tensors))}"


def _write_hashes(step: RankStep) -> str:
    return f"{step.step} {step.parameters} {step.buffers}"


def _write_line(step: RankStep) -> str:
    """In a third of the time that `schema.to_plain` takes."""
    return f"{step.step} {json.dumps([getattr(step, name) for name in _COMPARED])}"


def _read_telling(text: str, latest: int) -> Telling:
    """The telling of a rank, with those of its steps that come after `latest`."""
    head, *lines = text.split("\n")
    _, total, done, event = json.loads(head)
    new = []
    for line in reversed(lines):
        number, _, values = line.partition(" ")
        if int(number) <= latest:
            break
        new.append(_read_step(int(number), values))
    return Telling(
        steps=tuple(reversed(new)),
        total=total,
        nonfinite=reading.read_plain(NonFinite | None, event),
        done=done,
    )


def _read_step(number: int, line: str) -> RankStep:
    values = dict(zip(_COMPARED, json.loads(line), strict=True))
    values["without_gradient"] = tuple(values["without_gradient"])
    return RankStep(step=number, **values)
