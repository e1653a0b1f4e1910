"""How long each stage of a step took on this rank, and how long of it its thread stood in the queue
for a processor, which is the machine's doing and not the rank's.
"""

import contextlib
import os
from time import perf_counter

_QUEUE = "/proc/thread-self/schedstat"
"""Nanoseconds that a thread ran, and that it was ready and did not run; see
Documentation/scheduler/sched-stats.rst of Linux.
"""
_DIGITS = 6  # behind the point: microseconds


class Stages:
    """The times of one step after the other, taken on the thread of the loop."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._can_open = True
        self._mark = (perf_counter(), 0.0)
        self.clear()

    def clear(self) -> None:
        """A step begins."""
        self.seconds: dict[str, float] = {}
        self.queued: dict[str, float] | None = None

    def start(self) -> None:
        """What counts begins now."""
        self._mark = self._read()

    def end(self, stage: str) -> None:
        """The time since the last mark was that of this stage; the next one begins."""
        before, now = self._mark, self._read()
        self._mark = now
        for kept, i in ((self.seconds, 0), (self.queued, 1)):
            if kept is not None:
                kept[stage] = round(kept.get(stage, 0.0) + max(0.0, now[i] - before[i]), _DIGITS)

    def open(self) -> None:
        """Look at the queue too, where the system tells it, from this thread."""
        if self._can_open:
            self._can_open = False
            with contextlib.suppress(OSError):
                self._file = os.open(_QUEUE, os.O_RDONLY)
            if self._file is not None and not int(os.pread(self._file, 64, 0).split()[0]):
                self.close()  # a kernel that does not count
            self._mark = (self._mark[0], self._read()[1])
        self.queued = None if self._file is None else {}

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self) -> tuple[float, float]:
        queued = 0
        try:
            if self._file is not None:
                queued = int(os.pread(self._file, 64, 0).split()[1])
        except OSError:  # the loop goes on in another thread, and this one has ended
            self.close()
            self.queued = None
        return perf_counter(), queued / 1e9
