"""Rows of statistics in the order in which a training step makes them: the shortest way from a
tensor to a row of numbers.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnprobe.stats import native
from cnnprobe.stats.engine import write
from cnnprobe.stats.table import WRITTEN, RowTable, Transfer

SLOT: Final = WRITTEN + 1  # the column that says what a row is about
# values below which letting go of the interpreter's lock costs more than it gives
SMALL: Final = 2**15
_DENSE = (Tensor, torch.nn.Parameter)


class Cell:
    """What one tensor of each step needs to be measured: the kernel reads it by its address."""

    __slots__ = ("_memory", "address", "dtype", "plan", "shape", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self._memory = np.zeros(4, dtype=np.int64)  # the sheet's address, slot, dtype, threads
        self._memory[1] = slot
        self.address = int(self._memory.ctypes.data)
        self.dtype: torch.dtype | None = None  # of the latest tensor; what the kernel believes
        self.shape: torch.Size | None = None  # of the plan
        self.plan: RowPlan | None = None  # where channels are asked for

    def prepare(self, dtype: torch.dtype, sheet: int, *, threads: int | None = None) -> None:
        """Tell the kernel of another dtype, and of how many threads it may use: as torch does."""
        self._memory[0], self._memory[2] = sheet, native.CODES[dtype]
        self._memory[3] = torch.get_num_threads() if threads is None else threads
        self.dtype = dtype


class RowPlan:
    """How the channels of a tensor lie in memory, and how many nonzero values each had since
    `fired` was cleared.
    """

    __slots__ = ("_memory", "address", "fired")

    def __init__(
        self, sizes: tuple[int, int, int], fired: NDArray[np.float64] | None = None
    ) -> None:
        kept = fired is not None and len(fired) == sizes[1]
        self.fired: NDArray[np.float64] = (
            fired if kept and fired is not None else np.zeros(sizes[1])
        )
        self._memory = np.array([*sizes, self.fired.ctypes.data], dtype=np.int64)
        self.address = int(self._memory.ctypes.data)


class RowBuffer:
    """A table that is filled from its first row on; `take()` gives the rows so far, each with its
    slot in the column SLOT.

    Not for several threads at once.
    """

    def __init__(self, capacity: int = 1024, *, histogram: bool = False) -> None:
        self.table = RowTable(capacity, histogram=histogram)
        self._head = np.zeros(4, dtype=np.int64)  # addresses of rows and histograms, next, capacity
        self.address = int(self._head.ctypes.data)
        self._point()
        kernel = native.load_kernel()
        self.kernel = None if kernel is None else kernel.sheets

    def _point(self) -> None:
        self._head[0], self._head[1] = self.table.address(0), self.table.histogram_address(0) or 0
        self._head[3] = self.table.rows

    @property
    def next(self) -> int:
        """The row that comes next: how many there are."""
        return min(int(self._head[2]), self.table.rows)

    def record(self, tensor: Tensor, cell: Cell) -> None:
        """The statistics of any tensor into the next row; never raises for a tensor, never waits
        for a device.
        """
        row = self.next
        if row >= self.table.rows:
            self._grow()
        self._head[2] = row + 1
        self.table.last = None
        write(tensor, self.table, row)
        self.table.values[row, SLOT] = cell.slot

    def repeat(self, cell: Cell) -> None:
        """The last row again, for another cell."""
        row = self.next
        source = row - 1
        if row >= self.table.rows:
            self._grow()
        self._head[2] = row + 1
        self.table.copy(source, row)
        if source in self.table.pending:
            self.table.pending[row] = self.table.pending[source]
        self.table.values[row, SLOT] = cell.slot

    def reserve(self, rows: int) -> None:
        """Make room for so many more rows."""
        while self.next + rows > self.table.rows:
            self._grow()

    def _grow(self) -> None:
        old, self.table = (
            self.table,
            RowTable(2 * self.table.rows, histogram=self.table.histograms is not None),
        )
        self.table.values[: old.rows] = old.values
        if old.histograms is not None and self.table.histograms is not None:
            self.table.histograms[: old.rows] = old.histograms
        self.table.pending = old.pending
        self._point()

    def forget(self, first: int = 0) -> None:
        """Drop the rows from `first` on."""
        rows = self.next
        for row in range(first, rows) if self.table.pending else ():
            self.table.pending.pop(row, None)
        self._head[2] = min(first, rows)

    def take(self) -> "Taken":
        """The rows so far, on their way; the sheet is empty then."""
        table, rows = self.table, self.next
        histograms = None if table.histograms is None else table.histograms[:rows].copy()
        taken = Taken(
            table.values[:rows].copy(),
            histograms,
            table.send(settled=True) if table.pending else [],
        )
        self._head[2] = 0
        table.last = None
        return taken


class Taken:
    """The rows of a step, apart from those that are still on their way from a device."""

    def __init__(
        self,
        values: NDArray[np.float64],
        histograms: NDArray[np.int64] | None,
        transfers: list[Transfer],
    ) -> None:
        self._values = values
        self._histograms = histograms
        self._transfers = transfers

    def is_there(self) -> bool:
        """Whether reading it would not wait."""
        return all(transfer.is_there() for transfer in self._transfers)

    def read(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Rows and histograms; a row that could not be measured has 0 in the column WRITTEN."""
        for transfer in self._transfers:
            for row, measured in zip(transfer.rows, transfer.read(), strict=True):
                self._values[row, :WRITTEN] = measured.row.numpy()
                self._values[row, WRITTEN] = 1.0
                if self._histograms is not None and measured.histogram is not None:
                    self._histograms[row] = measured.histogram.numpy()
        self._transfers = []
        return self._values, self._histograms


# vmap and grad hand on tensors without memory of their own
_is_wrapped = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", lambda _: False)


def has_own_values(tensor: Tensor) -> bool:
    """Whether its memory holds its values: not those of another tensor, nor their negatives."""
    return type(tensor) in _DENSE and not _is_wrapped(tensor) and not tensor.is_neg()


def is_plain(tensor: Tensor) -> bool:
    """Whether the kernel may read it: an ordinary dense tensor of floats on the CPU."""
    return (
        has_own_values(tensor)
        and tensor.dtype in native.CODES
        and tensor.is_cpu
        and not tensor.is_nested
        and tensor.layout is torch.strided
        and (
            tensor.is_contiguous()
            or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
        )
        and tensor.data_ptr() != 0
    )
