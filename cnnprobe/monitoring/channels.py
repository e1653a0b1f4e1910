"""Channels that put out nothing but zeros over a window of observed steps."""

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cnnprobe.monitoring.hooks import ChannelHook, LayerHook
from cnnprobe.records.history import DeadChannels
from cnnprobe.records.ledger import Slot

_Window = deque[tuple[int, NDArray[np.bool_]]]


class Silences:
    """By slot, which channels were zero throughout at each of the latest observed steps."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._masks: dict[int, _Window] = {}

    def count(self, hooks: Iterable[LayerHook], step: int) -> dict[int, int]:
        """How many channels were zero throughout in this step, by slot; the counters start anew."""
        dead: dict[int, int] = {}
        for hook in hooks:
            for cell in hook.cells if isinstance(hook, ChannelHook) and hook.calls else ():
                if cell.plan is not None:
                    silent = cell.plan.fired == 0
                    cell.plan.fired.fill(0)
                    dead[cell.slot] = int(np.count_nonzero(silent))
                    if cell.slot not in self._masks:
                        self._masks[cell.slot] = deque(maxlen=self._window)
                    self._masks[cell.slot].append((step, silent))
        return dead

    def dead(self, slots: Sequence[Slot]) -> tuple[DeadChannels, ...]:
        """The channels that were zero in the whole window."""
        found = []
        for slot, window in self._masks.items():
            masks = [mask for _, mask in window]
            if len(masks) < self._window or len({len(mask) for mask in masks}) > 1:
                continue
            silent = np.logical_and.reduce(masks)
            if silent.any():
                found.append(_build(slots[slot], silent, (window[0][0], window[-1][0])))
        return tuple(found)


def _build(slot: Slot, silent: NDArray[np.bool_], steps: tuple[int, int]) -> DeadChannels:
    return DeadChannels(
        fqn=slot.fqn,
        call=slot.call,
        kind=slot.kind,
        channels=tuple(np.flatnonzero(silent).tolist()),
        of=len(silent),
        first=steps[0],
        last=steps[1],
    )
