"""Statistics of tensors as they pass: measured at once, made objects of a page at a time.

Between two layers the processor's caches are full of activations, and each line of Python is
fetched from memory anew: what can wait until many tensors were measured takes a fifth of the time.
On a device all rows of a page come over in one transfer, on its way while the forward goes on.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from cnnprobe.records.statistics import Statistics
from cnnprobe.stats.content import is_observed
from cnnprobe.stats.native import DONE, LARGE, NOT_FINITE
from cnnprobe.stats.sheet import SMALL, Cell, RowBuffer, has_own_values, is_plain

ROWS = 64  # a quarter of a megabyte with histograms
_MOST_FORMS = 8_192
_Plan = tuple[object, Callable[[int, int, int], int], int, int]
"""How tensors of one form are measured: the form, the kernel's function, number of elements, and
the address of the cell.
"""


class PageReading:
    """The statistics of one tensor, which are read from their page when they are asked for."""

    __slots__ = ("_found", "_page")

    def __init__(self, page: "_Page") -> None:
        self._page: _Page | None = page
        self._found: Statistics | None = None

    def get(self) -> Statistics | None:
        """The statistics; None where they are not available."""
        while self._page is not None:  # another thread may have moved it meanwhile
            self._page.settle()
        return self._found

    def move(self, page: "_Page") -> None:
        """Be read from another page."""
        self._page = page

    def settle(self, found: Statistics | None) -> None:
        """Keep what was read, and let go of the page."""
        self._found, self._page = found, None


class _Page:
    """What one thread writes to; its memory is used again when all of it was read."""

    __slots__ = ("_buffer", "_cells", "_lock", "_plans", "_readings", "_settled")

    def __init__(self, *, histogram: bool) -> None:
        self._buffer = RowBuffer(ROWS, histogram=histogram)
        self._cells: dict[tuple[torch.dtype, bool], Cell] = {}
        self._plans: dict[int, _Plan] = {}  # by the id of the form, which they keep
        self._lock = threading.Lock()  # another thread may ask for what was measured on this one
        self._readings: list[PageReading] = []
        self._settled = 0  # so many of them know their numbers

    def measure(self, tensor: Tensor, form: object) -> PageReading:
        """The next row."""
        if len(self._readings) == ROWS:
            if self._buffer.table.pending:
                self._leave_on_device()
            else:
                self.settle()
                self._readings, self._settled = [], 0
                self._buffer.forget()
        if not self._measure_plain(tensor, form):
            self._buffer.record(tensor, _ANY)
        reading = PageReading(self)
        self._readings.append(reading)
        return reading

    def _measure_plain(self, tensor: Tensor, form: object) -> bool:
        """The shortest way, for what nearly all activations are; False if it must be another.

        Between two layers each question to a tensor is fetched from memory: what its form tells is
        asked once.
        """
        try:
            plan = self._plans.get(id(form)) or self._plan(tensor, form)
            if plan is None or is_observed() or not has_own_values(tensor):
                return False
            pointer = tensor.data_ptr()
            if not pointer:
                return False
            _, record, count, address = plan
            status = record(pointer, count, address)
        except RuntimeError:  # it refuses to tell where its values are
            return False
        if status in {DONE, NOT_FINITE}:
            return True
        self._buffer.forget(self._buffer.next - 1)
        return False

    def _plan(self, tensor: Tensor, form: object) -> _Plan | None:
        """How to measure a tensor, kept for all of the same form; None if not by the kernel."""
        buffer = self._buffer
        kernel = buffer.kernel
        if kernel is None or is_observed() or not is_plain(tensor):
            return None
        count = tensor.numel()
        kind = tensor.dtype, count > LARGE
        cell = self._cells.get(kind)
        if cell is None:
            cell = self._cells[kind] = Cell(0)
            cell.prepare(tensor.dtype, buffer.address, threads=None if count > LARGE else 1)
        record = kernel.record if count < SMALL else kernel.record_freely
        plan = form, record, count, cell.address
        if form is not None:
            if len(self._plans) >= _MOST_FORMS:
                self._plans.clear()
            self._plans[id(form)] = plan
        return plan

    def _leave_on_device(self) -> None:
        """Send the rows on their way and take other memory: only who asks for them waits."""
        left = _Page(histogram=self._buffer.table.histograms is not None)
        with self._lock:
            left._buffer, self._buffer = self._buffer, left._buffer
            left._readings, left._settled = self._readings, self._settled
            for reading in left._readings[left._settled :]:
                reading.move(left)
            self._readings, self._settled = [], 0
            self._cells.clear()  # they point at the memory that is left
            self._plans.clear()
            left._buffer.table.dispatch()

    def settle(self) -> None:
        """Read all rows that were written."""
        with self._lock:
            readings, first = self._readings, self._settled
            last = self._settled = len(readings)
            found = self._buffer.table.read_rows(first, last)
            for reading, each in zip(readings[first:last], found, strict=True):
                reading.settle(each)


class _Pages(threading.local):
    """The page of each thread."""

    def __init__(self, *, histogram: bool) -> None:
        self.page = _Page(histogram=histogram)


_ANY = Cell(0)


class Pages:
    """Measures tensors on any thread.

    >>> import torch
    >>> pages = Pages(histogram=False)
    >>> reading = pages.measure(torch.tensor([1.0, 3.0]))
    >>> reading.get().mean
    2.0
    """

    def __init__(self, *, histogram: bool) -> None:
        self._pages = _Pages(histogram=histogram)

    def measure(self, tensor: Tensor, form: object = None) -> PageReading:
        """Read the tensor's values now; never raises, and changes nothing of it.

        `form` is one object for all tensors that are equal in shape, strides, dtype and device,
        whoever has it: what it tells is then not asked of each. Also what was measured just before
        is read again: what NumPy or another library wrote into it since would go unnoticed.
        """
        return self._pages.page.measure(tensor, form)
