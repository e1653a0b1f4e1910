"""The loss of a watched loop without the noise of its batches, as the rules look at it."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from cnnprobe.records.averages import Stretch, join
from cnnprobe.rulebook.divergence import TIMES

LONG = 100  # steps with a loss, of different batches, before it is said not to fall
_PART = 5  # a fifth of the run is averaged: batches differ
_SURE = 2.0  # standard errors
_BETTER = 0.9  # of the first loss: a run that ends below it has come back from wherever it was


class Smoothed:
    """Losses averaged over a fifth of the run; the last one lower by what the batches' differences
    may account for.
    """

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self._stretches = stretches
        self._firsts = [stretch.first for stretch in stretches]
        self.count = sum(stretch.points for stretch in stretches)
        self._half = max(0, self.count // _PART // 2)
        places = (
            np.cumsum([stretch.points for stretch in stretches]) - 1
        )  # of each one's last point
        self._starts = np.searchsorted(places, places - self._half).tolist()
        self._stops = np.searchsorted(places, places + self._half, side="right").tolist()
        self._values = [self._average(i) for i in range(len(stretches))]
        if self.count >= LONG and all(math.isfinite(stretch.mean) for stretch in stretches):
            ends = [self._around(0), self._around(len(stretches) - 1)]
            wholes = [join(end) for end in ends if _is_noise(end)]
            error = sum(whole.squares / whole.points / whole.points for whole in wholes)
            self._values[-1] -= _SURE * math.sqrt(error)

    @property
    def is_averaged(self) -> bool:
        """Whether the first or the last loss is an average."""
        ends = (0, len(self._stretches) - 1)
        return self._half > 0 and any(_is_noise(self._around(end)) for end in ends)

    def at(self, step: int) -> float | None:
        """The loss at a step; None where none was seen."""
        known = bisect_right(self._firsts, step) - 1
        if known < 0 or step > self._stretches[known].last:
            return None
        return self._values[known]

    def _around(self, i: int) -> Sequence[Stretch]:
        return self._stretches[self._starts[i] : self._stops[i]]

    def _average(self, i: int) -> float:
        around = self._around(i)
        if not _is_noise(around):
            return self._stretches[i].mean
        return float(
            np.average([one.mean for one in around], weights=[one.points for one in around])
        )


def _is_noise(stretches: Sequence[Stretch]) -> bool:
    """Whether losses differ as those of batches do; a loss that explodes has no average that says
    where it began.
    """
    low, high = min(one.low for one in stretches), max(one.high for one in stretches)
    return all(math.isfinite(one.mean) for one in stretches) and high - low <= TIMES * max(
        1.0, abs(low)
    )


def find_highest(losses: Sequence[float | None]) -> int | None:
    """Where a loss was highest that has diverged and came down again to no less than it began with,
    as where every ReLU has died.
    """
    known = [(value, i) for i, value in enumerate(losses) if value is not None]
    if len(known) < 2 or not all(math.isfinite(value) for value, _ in known):
        return None
    first, last, (highest, at) = known[0][0], known[-1][0], max(known)
    return (
        at if first > 0 and last >= _BETTER * first and highest > max(1.0, TIMES * first) else None
    )
