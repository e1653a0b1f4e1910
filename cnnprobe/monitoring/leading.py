"""Which rank compares the others: rank 0, and another where it has left or is not heard of.

The rank that leads renews a key of the store. Where it does not, or says that it has left before
the others, the first of them to see it takes over: the store lets one of them alone change the key.
"""

import time
from typing import Any

from cnnprobe.monitoring.differing import Differences, Judged
from cnnprobe.records.ranks import RankInfo

_LEAVING = "leaving"  # the rank that leads has left its block, and looks at the last steps
_LEFT = "left"  # it has gone, and others have not: followed by what it has judged
_DONE = "done"  # all ranks have left


class Lead:
    """Who leads, as one rank sees it. `differences` are what this rank compares, if it leads."""

    def __init__(self, store: Any, name: str, info: RankInfo, model: str) -> None:
        self._store = store
        self._key = f"cnnprobe/{name}/lead"
        self._info = info
        self._model = model
        self.differences: Differences | None = None
        self._value = ""  # of the key, as this rank last saw or wrote it
        self._changed = time.monotonic()
        self._asked = -1.0
        self._beat = 0
        if info.rank == 0:
            self._begin(Judged())

    @property
    def is_left_to_others(self) -> bool:
        """Whether another rank looks at the last steps, or has."""
        return self.differences is None and self._state in (_LEAVING, _DONE)

    @property
    def _state(self) -> str:
        """What the rank that leads has said last: a number as long as it trains."""
        return (self._value.split() or ["", ""])[1]

    def hold(self, patience: float, *, every: float, leaving: bool = False) -> None:
        """Say that this rank leads, or look at whether another does.

        Args:
            patience: seconds without a word from the rank that leads, after which to take over.
            every: seconds between two looks.
            leaving: this rank has left its block.
        """
        now = time.monotonic()
        if self._state == _DONE or (now - self._asked < every and not leaving):
            return
        self._asked = now
        if self.differences is not None:
            self._renew(leaving=leaving)
        else:
            self._look(now, patience)

    def hand_on(self) -> None:
        """This rank has done what it could: where others still train, one of them goes on."""
        if self.differences is not None:
            judged = self.differences.judged
            self._write(
                _DONE
                if self.differences.is_over
                else " ".join([_LEFT, str(judged.step), *judged.rules])
            )

    def _begin(self, before: Judged) -> None:
        self.differences = Differences(self._info, self._model, before)
        self.differences.prepare()

    def _renew(self, *, leaving: bool) -> None:
        if self._state == _LEAVING:
            return
        self._beat += 1
        if not self._write(_LEAVING if leaving else str(self._beat)):
            self.differences = None  # this rank stood still, and another has taken over

    def _look(self, now: float, patience: float) -> None:
        is_there = self._store.check([self._key])
        value = bytes(self._store.get(self._key)).decode() if is_there else ""
        if value != self._value:
            self._value, self._changed = value, now
        rank, _, *judged = value.split() or ["0", ""]
        if self._state == _LEFT:
            if self._write("0"):
                self._begin(Judged(step=int(judged[0]), rules=tuple(judged[1:])))
        elif self._state != _DONE and now - self._changed >= patience and self._write("0"):
            self._begin(Judged())
            if self.differences is not None:
                self.differences.lose(int(rank), patience)

    def _write(self, what: str) -> bool:
        """Whether the key was as this rank had seen it, and says now that it leads."""
        value = f"{self._info.rank} {what}"
        found = bytes(self._store.compare_set(self._key, self._value, value)).decode()
        self._value = found
        return found == value
