"""A preallocated table of statistics: engines write rows of numbers into it, and only reading makes
objects of them.
"""

import contextlib
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnprobe.records.statistics import (
    BUCKETS,
    COLUMNS,
    LOWEST,
    Channels,
    Statistics,
    make_histogram,
    read_row,
)
from cnnprobe.records.trace import Histogram
from cnnprobe.stats import moments
from cnnprobe.stats.transfer import Sent

WRITTEN = len(
    COLUMNS
)  # the column that is 1 where the row holds statistics, 0 where none were available
WIDTH = 16  # doubles in a row: two cache lines
SIGNED = 512  # histogram slots: exponent + 127 for positive values, 256 more for negative ones


class MeasuredRows:
    """What an engine measured of one tensor, still on its device: `row` (9,), `histogram` (512,),
    `channels` (5, C).

    Instead of a row there may be the moments of parts, (parts, 9), to be merged when they are
    fetched.
    """

    __slots__ = ("channels", "histogram", "row")

    def __init__(
        self, row: Tensor, histogram: Tensor | None = None, channels: Tensor | None = None
    ) -> None:
        self.row = row
        self.histogram = histogram
        self.channels = channels


class Transfer:
    """Measured rows on their way to the CPU, all of one device in one tensor: counts are exact in a
    double up to 2**53.
    """

    def __init__(self, rows: Sequence[int], parts: Sequence[MeasuredRows]) -> None:
        self.rows = rows
        self._parts = parts
        numbers = [t for part in parts for t in (part.row, part.channels) if t is not None]
        counts = [part.histogram for part in parts if part.histogram is not None]
        self._tensors = numbers + counts
        wide = torch.float32 if numbers[0].device.type == "mps" else torch.float64
        # one conversion for all of a kind, as each is a launch on the device
        kinds = [torch.cat([t.reshape(-1) for t in kind]) for kind in (numbers, counts) if kind]
        self._sent = Sent(torch.cat([kind.to(wide) for kind in kinds]))

    def is_there(self) -> bool:
        """Whether reading it would not wait."""
        return self._sent.is_there()

    def read(self) -> list[MeasuredRows]:
        """The same parts on the CPU."""
        host = self._sent.read().double()
        pieces = torch.split(host, [t.numel() for t in self._tensors])
        moved = iter([piece.view(t.shape) for piece, t in zip(pieces, self._tensors, strict=True)])
        rows = [
            (next(moved), None if part.channels is None else next(moved)) for part in self._parts
        ]
        return [
            MeasuredRows(row, None if part.histogram is None else next(moved).long(), channels)
            for (row, channels), part in zip(rows, self._parts, strict=True)
        ]


# Of the tensor that was measured last: address, version, number of elements, dtype, itself, and its
# row. A bare tuple, as one is made for each tensor.
Written = tuple[int, int, int, torch.dtype, weakref.ref[Tensor], int]


class RowTable:
    """Rows of statistics, `values[row]` = the numbers of COLUMNS, 1 if written; 16 doubles a row.

    What was measured on another device stays there until the first `read` or `fetch`, which moves
    all of it in one transfer a device. A row may be written again; rows that different threads
    write must differ.
    """

    def __init__(self, rows: int, *, histogram: bool = False, channels: bool = False) -> None:
        self.values: NDArray[np.float64] = np.zeros((rows, WIDTH))
        self.histograms: NDArray[np.int64] | None = (
            np.zeros((rows, SIGNED), dtype=np.int64) if histogram else None
        )
        self.channels: list[NDArray[np.float64] | None] | None = [None] * rows if channels else None
        self.pending: dict[int, MeasuredRows] = {}
        self.last: Written | None = None
        self.rows = rows
        self._parts: dict[tuple[torch.device, int], Tensor] = {}
        self._counts: dict[torch.device, Tensor] = {}
        self._counted: set[int] = set()  # rows of _counts that are no longer 0
        self._streams: set[tuple[int, int]] = set()  # of CUDA, on which pending rows were written
        self._sent: list[Transfer] = []
        self._address = self.values.ctypes.data
        self._histogram_address = None if self.histograms is None else self.histograms.ctypes.data

    def address(self, row: int) -> int:
        """Where in memory the row begins."""
        return self._address + row * WIDTH * 8

    def histogram_address(self, row: int) -> int | None:
        """Where in memory the row's histogram begins; None for a table without."""
        return (
            None if self._histogram_address is None else self._histogram_address + row * SIGNED * 8
        )

    def copy(self, source: int, row: int) -> None:
        """Give `row` what is in the row `source`."""
        self.values[row] = self.values[source]
        if self.histograms is not None:
            self.histograms[row] = self.histograms[source]
        if self.channels is not None:
            self.channels[row] = self.channels[source]

    def clear(self, row: int) -> None:
        """Say that nothing is known of this row."""
        self.pending.pop(row, None)
        self.values[row] = 0.0
        if self.histograms is not None:
            self.histograms[row] = 0
        if self.channels is not None:
            self.channels[row] = None

    def parts(self, device: torch.device, programs: int) -> Tensor:
        """Memory on `device` for the moments of parts: shape (rows, programs, 9), kept as long as
        the table.
        """
        key = (device, programs)
        if key not in self._parts:
            self._parts[key] = torch.zeros(
                self.rows, programs, len(moments.PARTS), dtype=torch.float64, device=device
            )
        return self._parts[key]

    def counts(self, device: torch.device, row: int) -> Tensor:
        """Memory on `device` for the histogram of a row: shape (512,), all 0."""
        if device not in self._counts:
            self._counts[device] = torch.zeros(self.rows, SIGNED, dtype=torch.int64, device=device)
        counts = self._counts[device][row]
        if row in self._counted:
            counts.zero_()
        self._counted.add(row)
        return counts

    def hold_parts(
        self, row: int, measured: MeasuredRows, stream: tuple[int, int] | None = None
    ) -> None:
        """Keep the moments of parts until they are fetched, on whatever device they are.

        Args:
            row: where they belong.
            measured: the parts.
            stream: the index of a CUDA device and the stream on which they are written.
        """
        self.pending[row] = measured
        if stream is not None:
            self._streams.add(stream)

    def hold(self, row: int, measured: MeasuredRows) -> None:
        """Keep what was measured in `row`: at once if it is on the CPU, else until it is
        fetched.
        """
        if measured.row.device.type == "cpu":
            self._store(row, measured)
        else:
            self.pending[row] = measured

    def fetch(self) -> None:
        """Bring over what is still on other devices: one transfer, and one synchronisation, for
        each device.
        """
        self.dispatch()
        sent, self._sent = self._sent, []
        for transfer in sent:
            for row, measured in zip(transfer.rows, transfer.read(), strict=True):
                self._store(row, measured)

    def dispatch(self) -> None:
        """Send what is on other devices on its way, and let go of the memory there; waits only
        where rows were written on several streams.
        """
        current = {(index, find_stream(index)) for index, _ in self._streams}
        self._sent += self.send(settled=current == self._streams)
        self._parts.clear()
        self._counts.clear()
        self._counted.clear()

    def send(self, *, settled: bool) -> list[Transfer]:
        """Send what is on other devices on its way, one transfer a device; the table no longer
        knows of it.

        Args:
            settled: whether all of it was written on the streams that are current now, or ones that
                they wait for; else the devices are waited for.
        """
        transfers = []
        while self.pending:
            device = next(iter(self.pending.values())).row.device
            rows = [row for row, measured in self.pending.items() if measured.row.device == device]
            transfers.append(
                Transfer(
                    rows, _merge_parts([self.pending.pop(row) for row in rows], settled=settled)
                )
            )
        self._streams.clear()
        if self._counted:
            self._counted.clear()
            for counts in self._counts.values():
                counts.zero_()  # what was sent is a copy
        return transfers

    def read(self, row: int) -> Statistics | None:
        """The statistics in `row`; None where it was not written or they were not available."""
        if self.pending or self._sent:
            self.fetch()
        return self._read_rows(row, row + 1)[0]

    def read_rows(self, first: int, last: int) -> list[Statistics | None]:
        """Those of all rows from `first` to before `last`; never raises."""
        if self.pending or self._sent:
            with contextlib.suppress(Exception):  # a transfer that failed leaves its rows unwritten
                self.fetch()
        return self._read_rows(first, last)

    def _read_rows(self, first: int, last: int) -> list[Statistics | None]:
        rows = self.values[first:last, : WRITTEN + 1].tolist()
        histograms = self._read_histograms(first, last)
        return [
            read_row(row, histogram=histogram, channels=self._read_channels(first + k))
            if row.pop()
            else None
            for k, (row, histogram) in enumerate(zip(rows, histograms, strict=True))
        ]

    def _store(self, row: int, measured: MeasuredRows) -> None:
        self.values[row, :WRITTEN] = measured.row.numpy()
        self.values[row, WRITTEN] = 1.0
        if self.histograms is not None:
            self.histograms[row] = 0 if measured.histogram is None else measured.histogram.numpy()
        if self.channels is not None:
            self.channels[row] = None if measured.channels is None else measured.channels.numpy()

    def _read_histograms(self, first: int, last: int) -> Sequence[Histogram | None]:
        if self.histograms is None or first == last:
            return [None] * (last - first)
        counts = self.histograms[first:last]
        negative, positive = counts[:, 256 : 256 + BUCKETS], counts[:, :BUCKETS]
        filled = (negative | positive) != 0
        starts = filled.argmax(axis=1)
        stops = BUCKETS - filled[:, ::-1].argmax(axis=1)
        stops[~filled.any(axis=1)] = 0  # no bucket is filled
        # from one end to the other of all: one list for each sign, of which rows take their part
        least, most = int(starts.min()), int(stops.max())
        parts = (negative[:, least:most].tolist(), positive[:, least:most].tolist())
        return [
            make_histogram(LOWEST + start, *(part[start - least : stop - least] for part in both))
            if stop
            else Histogram()
            for start, stop, *both in zip(starts.tolist(), stops.tolist(), *parts, strict=True)
        ]

    def _read_channels(self, row: int) -> Channels | None:
        values = None if self.channels is None else self.channels[row]
        if values is None:
            return None
        count, mean, std, zeros, nonfinite = values.tolist()
        return Channels(
            count=tuple(map(int, count)),
            mean=tuple(mean),
            std=tuple(std),
            zeros=tuple(map(int, zeros)),
            nonfinite=tuple(map(int, nonfinite)),
        )


def find_stream(index: int) -> int:
    """The stream that is current on a CUDA device, as a number."""
    return torch.cuda.current_stream(index).cuda_stream


def _merge_parts(measured: list[MeasuredRows], *, settled: bool) -> list[MeasuredRows]:
    """All rows that are still in parts, made rows by one set of operations."""
    in_parts = [m for m in measured if m.row.dim() == 2]
    if not in_parts:
        return measured
    if in_parts[0].row.device.type == "cuda" and not settled:
        torch.cuda.synchronize(
            in_parts[0].row.device
        )  # they may have been written on other streams than the one that reads them
    stacked = torch.stack([m.row for m in in_parts])  # (rows, parts, 9)
    rows = iter(moments.make_row(moments.merge_parts(stacked.movedim(1, 0).unbind(-1))))
    return [
        MeasuredRows(next(rows), m.histogram, m.channels) if m.row.dim() == 2 else m
        for m in measured
    ]
