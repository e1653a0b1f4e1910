"""What each rank tells of its latest steps, and how it goes through the store of the process group.

No call waits for another rank: a key is overwritten by who owns it, and read where it is there.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnnprobe.records import reading, schema
from cnnprobe.records.history import NonFinite
from cnnprobe.records.ranks import RankInfo, RankStep

Hashes = Mapping[int, tuple[str, str]]  # by step, those of parameters and of buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What one rank tells: the latest of its observed steps."""

    steps: tuple[RankStep, ...] = ()
    total: int = 0  # steps that it made
    nonfinite: NonFinite | None = None
    done: bool = False  # its block is left


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest() if text else ""


class Post:
    """The store, as one rank uses it."""

    def __init__(self, store: Any, name: str, info: RankInfo) -> None:
        self._store = store
        self._name = name
        self._info = info
        self._beat = 0
        self._short: dict[int, tuple[RankStep, str]] = {}  # this rank's latest steps, and as JSON
        self._known: set[int] = set()  # ranks that have told something
        self._read: dict[int, tuple[bytes, int]] = {}  # of each what was last read, and its step

    def shorten(self, step: RankStep) -> RankStep:
        """One hash of all parameters and one of all buffers, in the place of one for each."""
        if step.step not in self._short:
            short = replace(
                step, parameters=_digest(step.parameters), buffers=_digest(step.buffers)
            )
            self._short[step.step] = short, _write(short)
        return self._short[step.step][0]

    def put(self, telling: Telling) -> None:
        """Tell the others; a second time it says that this rank still runs."""
        key = self._key(self._info.rank)
        if not self._beat:
            self._store.set(f"{key}/info", _write(self._info))
        self._beat += 1
        for step in telling.steps:
            self.shorten(step)
        numbers = [step.step for step in telling.steps]
        self._short = {number: self._short[number] for number in numbers}
        steps = [[number, text] for number, (_, text) in self._short.items()]
        hashes = [[step.step, [step.parameters, step.buffers]] for step in telling.steps]
        short = _write([self._beat, steps, replace(telling, steps=())])
        # The hashes first: who finds a step finds its hashes.
        self._store.multi_set([f"{key}/hashes", key], [json.dumps(hashes), short])

    def look(self) -> Iterator[tuple[int, Telling]]:
        """What is new from the other ranks: the steps that were not read before."""
        for rank in set(range(self._info.of)) - self._known - {self._info.rank}:
            if self._store.check([self._key(rank)]):
                self._known.add(rank)
        ranks = sorted(self._known)
        found = self._store.multi_get(list(map(self._key, ranks))) if ranks else []
        for rank, data in zip(ranks, map(bytes, found), strict=True):
            before, latest = self._read.get(rank, (b"", -1))
            if data == before:
                continue
            _, told, rest = json.loads(data)
            new = [json.loads(text) for number, text in told if number > latest]
            self._read[rank] = data, max([latest, *(number for number, _ in told)])
            telling = reading.read_plain(Telling, rest)
            yield rank, replace(telling, steps=reading.read_plain(tuple[RankStep, ...], new))

    def read_info(self, rank: int) -> RankInfo:
        """How the model of a rank that has told something is distributed."""
        data = self._store.get(f"{self._key(rank)}/info")
        info: RankInfo = reading.read_plain(RankInfo, json.loads(data))
        return info

    def read_hashes(self, ranks: Iterable[int]) -> dict[int, Hashes]:
        """A hash of each tensor, of ranks that have told something, for their latest steps."""
        asked = list(ranks)
        keys = [f"{self._key(rank)}/hashes" for rank in asked]
        found: Sequence[Any] = self._store.multi_get(keys) if keys else []
        return {
            rank: {step: (parameters, buffers) for step, (parameters, buffers) in json.loads(data)}
            for rank, data in zip(asked, map(bytes, found), strict=True)
        }

    def _key(self, rank: int) -> str:
        return f"cnnprobe/{self._name}/{rank}"


def _write(value: object) -> str:
    return json.dumps(schema.to_plain(value))
