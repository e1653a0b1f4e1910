"""Finds where a row of things repeats itself."""

from collections.abc import Sequence
from typing import NamedTuple

LONGEST = 12  # things that may repeat as one; more is no pattern that a reader would see


class BlockRun(NamedTuple):
    """`times` times the same `period` things, from position `start` on."""

    start: int
    period: int
    times: int

    @property
    def end(self) -> int:
        """The position after the last of them."""
        return self.start + self.period * self.times


def find_runs(row: Sequence[int]) -> list[BlockRun]:
    """The repetitions in a row of numbers, from left to right, without overlap; of several the one
    that covers most.

    >>> find_runs([5, 1, 2, 1, 2, 1, 2, 7, 7])
    [BlockRun(start=1, period=2, times=3), BlockRun(start=7, period=1, times=2)]
    """
    found = []
    i = 0
    while i < len(row):
        best = max(
            (_make_run(row, i, period) for period in range(1, LONGEST + 1)),
            # Of runs that end at the same place the shortest period: 1 1 1 1 is four times 1.
            key=lambda run: (run.end, -run.period),
        )
        if best.times > 1:
            found.append(best)
            i = best.end
        else:
            i += 1
    return found


def _make_run(row: Sequence[int], start: int, period: int) -> BlockRun:
    end = start + period
    while end < len(row) and row[end] == row[end - period]:
        end += 1
    times = max((end - start) // period, 1)
    return BlockRun(start, period, times) if times > 1 else BlockRun(start, 0, 1)
