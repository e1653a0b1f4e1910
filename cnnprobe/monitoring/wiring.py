"""What all hooks of one monitor share: where they write, and whether they do."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cnnprobe.records.ledger import Ledger, Slot
from cnnprobe.records.statistics import INF, NAN
from cnnprobe.stats.native import NOT_FINITE
from cnnprobe.stats.sheet import Cell, RowBuffer

_NOTHING = (None, -1, -1, -1)
"""The latest output, its address, version and size: while it is held its memory is not given to
another.
"""

Odd = Callable[[Any, int, Any, Tensor], None]  # of the hook, its call, what it was given and gave


class Wiring:
    """What all hooks of one monitor share. `active` is whether a root call of an observed step
    runs, on the thread `thread`.
    """

    def __init__(
        self, ledger: Ledger, sheet: RowBuffer, *, gradients: bool, fraction: float
    ) -> None:
        self.ledger = ledger
        self.gradients = gradients
        self.fraction = fraction
        self.use(sheet)
        self.active = self.observing = False
        self.thread = 0
        self.recomputed: dict[str, int] = {}
        self.strangers = 0  # calls on other threads, or of copies
        self.odd: Odd | None = None  # told of values that are not finite, at once
        self.odd_gradient: Callable[[Slot, Tensor], None] | None = None
        self.stumbled: dict[str, None] = {}
        self.release()

    def use(self, sheet: RowBuffer) -> None:
        """Write into this sheet from now on."""
        self.sheet = sheet
        kernel = sheet.kernel
        self.kernel = kernel
        self.record = None if kernel is None else kernel.record
        self.record_freely = None if kernel is None else kernel.record_freely
        self.repeat = None if kernel is None else kernel.repeat

    def release(self) -> None:
        """Hold no tensor any more."""
        self.last: tuple[Tensor | None, int, int, int] = _NOTHING

    def cell(self, slot: Slot) -> Cell:
        """What writes to the line of the ledger that is about this."""
        return Cell(self.ledger.place(slot))

    def glance(self) -> int:
        """NOT_FINITE where the latest row holds NaN or Inf; what is still on a device is not waited
        for.
        """
        table, row = self.sheet.table, self.sheet.next - 1
        return NOT_FINITE if row not in table.pending and table.values[row, [NAN, INF]].any() else 0
