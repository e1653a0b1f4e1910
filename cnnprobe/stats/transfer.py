"""Tensors on their way from a device: sent without waiting, read when they have arrived."""

import contextlib
import ctypes
import threading

import torch
from torch import Tensor

_LOCK = threading.Lock()
_FREE: list[Tensor] = []  # page-locked memory that no transfer uses


class Sent:
    """A tensor that is being copied to the host; on the CPU it is there at once."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._host = tensor.detach().cpu()
            return
        with torch.cuda.device(tensor.device):
            self._buffer = _take_buffer(tensor.nbytes)
            whole = self._buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            self._host = whole
            whole.copy_(tensor.detach(), non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def is_there(self) -> bool:
        """Whether reading it would not wait."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def read(self) -> Tensor:
        """The tensor on the CPU; waits for it if need be."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
            self._host = self._host.clone()
            _give_back(self._buffer)
        return self._host

    def __del__(self) -> None:
        event = getattr(self, "_event", None)  # None where it was read, or could not be made
        with contextlib.suppress(Exception):  # a device that is lost
            if event is not None and event.query():
                _give_back(self._buffer)


def _take_buffer(nbytes: int) -> Tensor:
    """Page-locked memory of at least so many bytes.

    It is kept for the next transfer and never freed: freeing it asks the device, and where that is
    lost torch ends the process.
    """
    with _LOCK:
        fitting = [i for i, each in enumerate(_FREE) if each.nbytes >= nbytes]
        if fitting:
            return _FREE.pop(min(fitting, key=lambda i: _FREE[i].nbytes))
    size = 1 << max(12, (nbytes - 1).bit_length())
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(buffer))
    return buffer


def _give_back(buffer: Tensor) -> None:
    with _LOCK:
        _FREE.append(buffer)
