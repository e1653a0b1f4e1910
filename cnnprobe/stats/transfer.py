"""Tensors on their way from a device: sent without waiting, read when they have arrived."""

import torch
from torch import Tensor


class Sent:
    """A tensor that is being copied to the host; on the CPU it is there at once."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._host = tensor.detach().cpu()
            return
        with torch.cuda.device(tensor.device):
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor.detach(), non_blocking=True)
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
        return self._host
