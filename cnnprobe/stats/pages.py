"""Statistics of tensors as they pass: measured at once, made objects of a page at a time.

Between two layers the processor's caches are full of activations, and each line of Python is
fetched from memory anew: what can wait until many tensors were measured takes a fifth of the time.
On a device all rows of a page come over in one transfer.
"""

import threading

from torch import Tensor

from cnnprobe.records.statistics import Statistics
from cnnprobe.stats.engine import write
from cnnprobe.stats.table import RowTable

ROWS = 64  # a quarter of a megabyte with histograms


class PageReading:
    """The statistics of one tensor, which are read from their page when they are asked for."""

    __slots__ = ("_found", "_row", "_table")

    def __init__(self, table: RowTable, row: int) -> None:
        self._table: RowTable | None = table
        self._row = row
        self._found: Statistics | None = None

    def get(self) -> Statistics | None:
        """The statistics; None where they are not available."""
        table = self._table
        if table is not None:
            try:
                self._found = table.read(self._row)
            except Exception:  # the transfer from a device that failed earlier
                self._found = None
            self._table = None
        return self._found


class _Page(threading.local):
    """What a thread writes to."""

    def __init__(self, *, histogram: bool) -> None:
        self.histogram = histogram
        self.begin()

    def begin(self) -> None:
        """Take a new page; what was read from the last one may still be looked at elsewhere."""
        self.table = RowTable(ROWS, histogram=self.histogram)
        self.readings: list[PageReading] = []


class Pages:
    """Measures tensors on any thread.

    >>> import torch
    >>> pages = Pages(histogram=False)
    >>> reading = pages.measure(torch.tensor([1.0, 3.0]))
    >>> reading.get().mean
    2.0
    """

    def __init__(self, *, histogram: bool) -> None:
        self._page = _Page(histogram=histogram)

    def measure(self, tensor: Tensor) -> PageReading:
        """Read the tensor's values now; never raises, and changes nothing of it."""
        page = self._page
        table, readings = page.table, page.readings
        # what NumPy or another library wrote into the tensor since would go unnoticed
        table.last = None
        write(tensor, table, len(readings))
        reading = PageReading(table, len(readings))
        readings.append(reading)
        if len(readings) == ROWS:
            page.begin()
            for each in readings:
                each.get()
        return reading
