"""Chooses how a tensor is measured; whatever goes wrong there, the user's run goes on and the row
says "not available".
"""

import functools
import threading
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from cnnprobe.records.statistics import Statistics
from cnnprobe.stats import chunked, native, plain
from cnnprobe.stats.content import disable_user_modes, is_observed, read_content
from cnnprobe.stats.table import RowTable, Written

_ORDINARY = (Tensor, torch.nn.Parameter)  # exact classes: subclasses may answer otherwise


def write(tensor: Tensor, table: RowTable, row: int) -> None:
    """Put the statistics of `tensor` into `row`; never raises for a tensor, never changes it, never
    waits for a device.

    Raises:
        IndexError: the table has no such row.
    """
    if not 0 <= row < table.rows:
        raise IndexError(f"row {row} of a table of {table.rows}")
    try:
        if torch.compiler.is_compiling():
            written = False
        elif is_observed():
            with disable_user_modes():
                written = _write(tensor, table, row)
        else:
            written = _write(tensor, table, row)
    except (
        Exception
    ):  # tensors that refuse: a subclass, a dtype without operations, a freed storage
        written = False
    if not written:
        table.clear(row)


def _write(tensor: Tensor, table: RowTable, row: int) -> bool:
    try:
        if type(tensor) in _ORDINARY and _write_dense(tensor, table, row):
            return True
    # no storage: sparse and opaque layouts; torch.func wraps ordinary tensors without a class of
    # their own
    except RuntimeError:
        pass
    return _write_any(tensor, table, row)


def _write_dense(tensor: Tensor, table: RowTable, row: int) -> bool:
    """The short way for what nearly all activations are: dense floats on the CPU. At small modules
    each line of it shows in the run's time.
    """
    dtype = tensor.dtype
    if dtype not in native.CODES or not tensor.is_cpu or tensor.is_neg() or tensor.is_nested:
        return False
    if not (tensor.is_contiguous() or _is_dense(tensor)):
        return False
    pointer = tensor.data_ptr()
    if pointer == 0:  # a freed storage, or no element
        return False
    if table.pending:
        table.pending.pop(row, None)
    # those keep no count of their changes
    version = -1 if tensor.is_inference() else tensor._version
    numel = tensor.numel()
    last = table.last
    if (
        last is not None
        and last[:4] == (pointer, version, numel, dtype)
        and _is_alias(tensor, last, table)
    ):
        table.copy(last[5], row)
        return True
    kernel = native.load_kernel()
    if not (
        chunked.write(tensor, table, row)
        if kernel is None
        else kernel.write(tensor, pointer, numel, table, row)
    ):
        return False
    table.last = (pointer, version, numel, dtype, weakref.ref(tensor), row)
    return True


def _is_alias(tensor: Tensor, last: Written, table: RowTable) -> bool:
    """Whether `tensor` is but another view of what was measured last, unchanged: Flatten, Identity,
    Dropout in eval.

    While that tensor is alive its memory cannot have been given to a new one.
    """
    known = last[4]()
    if known is None or last[1] < 0 or known.data_ptr() != last[0]:
        return False
    return table.channels is None or (
        known.shape == tensor.shape and known.stride() == tensor.stride()
    )


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a stretch of memory, each once, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def _write_any(tensor: Tensor, table: RowTable, row: int) -> bool:
    with_channels = table.channels is not None
    with disable_user_modes():
        found = read_content(tensor, channels=with_channels)
        if found is None:
            return False
        # A wrapper's values are what its operations say, so only plain torch may read it.
        is_whole = type(found.values) is Tensor and found.repeats == 1 and found.implied_zeros == 0
        if is_whole and found.values.is_cuda and _write_on_device(found.values, table, row):
            return True
        if (
            is_whole
            and found.values.dtype in native.CODES
            and _write_dense(found.values.contiguous(), table, row)
        ):
            return True
        table.hold(
            row,
            plain.measure(found, histogram=table.histograms is not None, channels=with_channels),
        )
    return True


@functools.cache
def _load_accelerated() -> Callable[[Tensor, RowTable, int], bool] | None:
    """The engine for CUDA; None without Triton. Imported late, as that takes a second."""
    try:
        from cnnprobe.stats import accelerated
    except Exception:  # no Triton, or one that does not go with this torch
        return None
    return accelerated.write


def _write_on_device(tensor: Tensor, table: RowTable, row: int) -> bool:
    global _broken  # noqa: PLW0603
    engine = _load_accelerated()
    if engine is None or _broken or not (tensor.is_contiguous() or _is_dense(tensor)):
        return False
    try:
        return engine(tensor, table, row)
    except Exception:  # Triton needs a compiler on the machine, and a device that it knows
        _broken = True
        return False


class _Scratch(threading.local):
    """A table of one row for each thread and choice, as making one costs more than measuring a
    small tensor.
    """

    def __init__(self) -> None:
        self.tables: dict[tuple[bool, bool], RowTable] = {}

    def table(self, *, histogram: bool, channels: bool) -> RowTable:
        if (histogram, channels) not in self.tables:
            self.tables[histogram, channels] = RowTable(1, histogram=histogram, channels=channels)
        return self.tables[histogram, channels]


_scratch = _Scratch()
_broken = False  # Triton failed once: it is not tried again for each tensor


def summarise(
    tensor: Tensor, *, histogram: bool = False, channels: bool = False
) -> Statistics | None:
    """The statistics of one tensor of any kind; None where they are not available (meta, fake,
    vmapped, traced, a subclass that refuses).

    Never raises, never changes the tensor or the state of a random generator, and waits for a
    device once.

    Args:
        tensor: any dtype, layout, device and number of elements.
        histogram: also count the values by magnitude and sign.
        channels: also give the statistics of each channel (dimension 1) where there is one.

    >>> import torch
    >>> summarise(torch.tensor([0.0, 3.0, float("nan")])).as_mapping()
    {'count': 3, 'mean': 1.5, 'std': 1.5, 'min': 0.0, 'max': 3.0, 'zeros': 1, 'nan': 1, 'inf': 0, 'l2': 3.0}
    >>> summarise(torch.empty(3, device="meta")) is None
    True
    """  # noqa: E501
    table = _scratch.table(histogram=histogram, channels=channels)
    # what NumPy or another library wrote into the tensor since would go unnoticed
    table.last = None
    write(tensor, table, 0)
    try:
        return table.read(0)
    except Exception:  # the transfer from a device that failed earlier
        return None
