"""What seldom changes over a run, kept by the steps at which it did."""

from bisect import bisect_right
from typing import Generic, TypeVar

_MOST = 4096  # changes; of more, every second one is forgotten
_Value = TypeVar("_Value")


class States(Generic[_Value]):
    """A value over the steps.

    >>> modes = States()
    >>> for step in range(100):
    ...     modes.put(step, step < 50)
    >>> modes.at(49, None), modes.at(99, None), len(modes)
    (True, False, 2)
    """

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._values: list[_Value] = []

    def __len__(self) -> int:
        return len(self._steps)

    def put(self, step: int, value: _Value) -> None:
        """What it is from this step on."""
        if self._steps and self._steps[-1] == step:
            self._values[-1] = value
        elif not self._values or self._values[-1] != value:
            self._steps.append(step)
            self._values.append(value)
        if len(self._steps) > _MOST:
            del self._steps[1::2], self._values[1::2]

    def at(self, step: int, default: _Value) -> _Value:
        """What it was at this step; `default` before the first one."""
        known = bisect_right(self._steps, step)
        return self._values[known - 1] if known else default
