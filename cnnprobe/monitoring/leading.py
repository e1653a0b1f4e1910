"""Which rank compares the others: rank 0, and another where it is not heard of any more.

The rank that leads renews a key of the store. Where it does not, the first of the others to see it
takes over: the store lets one of them alone change the key.
"""

import time
from typing import Any

from cnnprobe.monitoring.differing import Differences
from cnnprobe.records.ranks import RankInfo

_DONE = "done"


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
            self._begin()

    @property
    def is_done(self) -> bool:
        """Whether the rank that leads has left its block."""
        return self._value.endswith(_DONE)

    def hold(self, patience: float, *, every: float, leaving: bool = False) -> None:
        """Say that this rank leads, or look at whether another does.

        Args:
            patience: seconds without a word from the rank that leads, after which to take over.
            every: seconds between two looks.
            leaving: this rank has left its block.
        """
        now = time.monotonic()
        if self.is_done or (now - self._asked < every and not leaving):
            return
        self._asked = now
        if self.differences is not None:
            self._renew(leaving=leaving)
        else:
            self._look(now, patience)

    def _begin(self) -> None:
        self.differences = Differences(self._info, self._model)
        self.differences.prepare()

    def _renew(self, *, leaving: bool) -> None:
        self._beat += 1
        if not self._write(_DONE if leaving else str(self._beat)):
            self.differences = None  # this rank stood still, and another has taken over

    def _look(self, now: float, patience: float) -> None:
        is_there = self._store.check([self._key])
        value = bytes(self._store.get(self._key)).decode() if is_there else ""
        if value != self._value:
            self._value, self._changed = value, now
        elif not self.is_done and now - self._changed >= patience and self._write("0"):
            self._begin()
            if self.differences is not None:
                self.differences.lose(int(value.split()[0]) if value else 0, patience)

    def _write(self, what: str) -> bool:
        """Whether the key was as this rank had seen it, and says now that it leads."""
        value = f"{self._info.rank} {what}"
        found = bytes(self._store.compare_set(self._key, self._value, value)).decode()
        self._value = found
        return found == value
