"""A GPU after one of its kernels failed: nothing on it can be read any more, in this process."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from cnnprobe.recorder.values import leaves

_MOST_READ = 2**24  # elements of a tensor of indices


def is_device_lost() -> bool:
    """Whether a kernel on the GPU failed, as at an assertion; waits for the device."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def wait_for_devices(values: Any) -> None:
    """Let a kernel that failed raise now, where the tensors among the values are on a GPU."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    for device in {t.device for t in _list_tensors(values) if t.is_cuda}:
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def outliving_devices() -> Iterator[None]:
    """What cannot be put back on a lost device is left: the exception before it is the user's."""
    try:
        yield
    except Exception:
        if not is_device_lost():
            raise


def read_index_ranges(values: Iterable[tuple[str, Any]]) -> tuple[tuple[str, int, int], ...]:
    """Name, least and greatest of the integer tensors on a GPU: afterwards they may be lost."""
    return tuple(
        (name, int(tensor.min()), int(tensor.max()))
        for name, value in values
        for tensor in _list_tensors(value)
        if tensor.is_cuda and _holds_indices(tensor)
    )


def _holds_indices(tensor: Tensor) -> bool:
    is_whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    return is_whole and type(tensor) is Tensor and 0 < tensor.numel() <= _MOST_READ


def _list_tensors(values: Any) -> list[Tensor]:
    return [leaf for _, leaf in leaves(values) if isinstance(leaf, Tensor)]
