"""Which steps are observed: each k-th, or as many as a share of the time allows."""

import math
from collections import deque
from statistics import median

_REMEMBERED = 15  # steps of either kind
_TRIED = 6  # steps of which every second one is observed, before the costs are judged
_RAREST = 1000


class Pace:
    """Chooses the steps; with a budget it compares the time of observed steps with that of the
    others.

    >>> pace = Pace(every=3)
    >>> [step for step in range(8) if pace.is_due(step)]
    [0, 3, 6]
    """

    def __init__(self, *, every: int, budget: float | None = None, first: int = 0) -> None:
        """`first` is the step at which the loop begins."""
        self.every = every
        self._first = first
        self._budget = budget
        self._last = first
        self._observed: deque[float] = deque(maxlen=_REMEMBERED)
        self._others: deque[float] = deque(maxlen=_REMEMBERED)

    def is_due(self, step: int) -> bool:
        """Whether this step is to be observed; to be asked once for each, in order."""
        if self._budget is None:
            return step % self.every == 0
        gone = step - self._first
        due = gone % 2 == 0 if gone <= _TRIED else step - self._last >= self.every
        self._last = step if due else self._last
        return due

    def took(self, step: int, seconds: float, *, observed: bool) -> None:
        """How long a step took; the first ones, that warm up, say nothing."""
        if self._budget is None or step - self._first < 2:
            return
        (self._observed if observed else self._others).append(seconds)
        if step - self._first >= _TRIED and self._observed and self._others:
            usual = median(self._others)
            cost = max(0.0, median(self._observed) - usual)
            self.every = (
                min(_RAREST, max(2, math.ceil(cost / (self._budget * usual))))
                if usual > 0
                else self.every
            )

    @property
    def cost(self) -> float | None:
        """What observing adds to a step, as a fraction of it; None where it was not measured."""
        if not self._observed or not self._others:
            return None
        return max(0.0, median(self._observed) / median(self._others) - 1.0)
