"""The C kernel through ctypes, which lets go of the interpreter's lock: one read of a tensor on the
CPU, no Python object per number.
"""

import ctypes
import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnprobe.stats import build
from cnnprobe.stats.table import RowTable

CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
LARGE = 2**20  # elements from which more than one thread is worth starting
DONE = 0
NOT_FINITE = 5  # a row was written, and holds NaN or Inf

_Address = ctypes.c_void_p


class _Allowed(ctypes.Structure):
    _fields_ = (("rtol", ctypes.c_double), ("atol", ctypes.c_double), ("equal_nan", ctypes.c_int))


class Gap(NamedTuple):
    """How far two arrays are apart: how many values are beyond the tolerance, and of those the
    greatest difference, absolute and relative.
    """

    beyond: int
    at: int  # where the greatest is first, in the order of memory
    greatest: float
    relative: float


class Kernel:
    """The loaded library."""

    def __init__(self, library: ctypes.CDLL, holding: ctypes.PyDLL) -> None:
        self.sheets = Sheets(library, holding)
        self._measure = library.cnnprobe_measure
        self._measure.argtypes = [
            _Address,
            ctypes.c_int,
            ctypes.c_int64,
            _Address,
            _Address,
            ctypes.c_int,
        ]
        self._by_channel = library.cnnprobe_channels
        self._by_channel.argtypes = [
            _Address,
            ctypes.c_int,
            ctypes.c_int64 * 3,
            _Address,
            _Address,
            _Address,
        ]
        self._gap = library.cnnprobe_gap
        self._gap.argtypes = [
            _Address,
            _Address,
            ctypes.c_int,
            ctypes.c_int64,
            ctypes.POINTER(_Allowed),
            ctypes.c_int,
            ctypes.c_double * 4,
        ]
        self._gap.restype = None

    def write(self, tensor: Tensor, address: int, count: int, table: RowTable, row: int) -> bool:
        """Measure a dense CPU tensor of one of the CODES; False where the kernel cannot: doubles
        near the ends of their range.
        """
        if table.channels is not None:
            if tensor.dim() > 1:
                return self._write_channels(tensor, table, row)
            table.channels[row] = None
        threads = torch.get_num_threads() if count > LARGE else 1
        status: int = self._measure(
            address,
            CODES[tensor.dtype],
            count,
            table.address(row),
            table.histogram_address(row),
            threads,
        )
        return status == 0

    def gap(
        self, actual: Tensor, expected: Tensor, bounds: tuple[float, float], *, equal_nan: bool
    ) -> Gap | None:
        """How far two contiguous CPU tensors of one size and one of the CODES are apart; None where
        their memory cannot be read.
        """
        pointers, count = (actual.data_ptr(), expected.data_ptr()), actual.numel()
        if count and not all(pointers):
            return None
        threads = torch.get_num_threads() if count > LARGE else 1
        found = (ctypes.c_double * 4)()
        self._gap(
            *pointers, CODES[actual.dtype], count, _Allowed(*bounds, equal_nan), threads, found
        )
        return Gap(int(found[0]), int(found[1]), found[2], found[3])

    def _write_channels(self, tensor: Tensor, table: RowTable, row: int) -> bool:
        sizes = split_sizes(tensor)
        if sizes is None or table.channels is None:
            return False
        values = np.empty((5, sizes[1]))
        arguments = (tensor.data_ptr(), CODES[tensor.dtype], (ctypes.c_int64 * 3)(*sizes))
        if (
            self._by_channel(
                *arguments, table.address(row), values.ctypes.data, table.histogram_address(row)
            )
            != 0
        ):
            return False
        table.channels[row] = values
        return True


class Sheets:
    """The kernel's functions that fill sheets, by address: (pointer, count, cell), (pointer, cell,
    plan), (cell).
    """

    def __init__(self, library: ctypes.CDLL, holding: ctypes.PyDLL) -> None:
        self.record = holding.cnnprobe_record  # holds the interpreter's lock: for small tensors
        self.record_freely = library.cnnprobe_record
        self.record_channels = library.cnnprobe_record_channels
        self.repeat = holding.cnnprobe_repeat
        self.record_each = library.cnnprobe_record_each
        self.keep = library.cnnprobe_keep
        self.hash_each = library.cnnprobe_hash_each
        self.changes = library.cnnprobe_changes
        for function in (self.record, self.record_freely):
            function.argtypes = [_Address, ctypes.c_int64, _Address]
        self.record_channels.argtypes = [_Address, _Address, _Address]
        self.repeat.argtypes = [_Address]
        self.record_each.argtypes = [_Address, ctypes.c_int64]
        self.keep.argtypes = [_Address, ctypes.c_int64, _Address, _Address]
        self.hash_each.argtypes = [_Address, ctypes.c_int64]
        self.changes.argtypes = [_Address, ctypes.c_int64, _Address, _Address]
        for function in (self.record_each, self.keep, self.hash_each, self.changes):
            function.restype = None


def split_sizes(tensor: Tensor) -> tuple[int, int, int] | None:
    """Elements before, along and behind the channel dimension as they lie in memory; None for other
    orders than (N, C, ...) and channels last.
    """
    channels, count = tensor.shape[1], tensor.numel()
    if count == 0:
        return None
    samples = tensor.shape[0]
    if tensor.is_contiguous():
        inner = count // (samples * channels)
        return samples, channels, inner
    order = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    if tensor.dim() in {4, 5} and tensor.is_contiguous(memory_format=order):
        return count // channels, channels, 1
    return None


@functools.cache
def load_kernel() -> Kernel | None:
    """The kernel that came with the package, else the one built for this user; None where there is
    neither.
    """
    for path in (build.PACKAGED, None):
        found = path or build.build_for_user()
        try:
            if found is None or not found.is_file():
                continue
            library = ctypes.CDLL(str(found))
            library.cnnprobe_version.restype = ctypes.c_char_p
            version = library.cnnprobe_version().decode()
            if version == build.compute_fingerprint() or not build.compute_fingerprint():
                return Kernel(library, ctypes.PyDLL(str(found)))
        except (OSError, AttributeError, UnicodeError):  # built for another system, or damaged
            continue
    return None
