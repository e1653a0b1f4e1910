"""Copies of what has no values yet."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy as is_uninitialised

from cnnprobe.recorder.inventory import list_own_tensors, named_modules


def copy_uninitialised(tensor: Tensor, device: str | torch.device | None = None) -> Tensor:
    """Another tensor without a shape; torch's own copy of an uninitialised buffer raises."""
    kind: Any = type(tensor)  # its stub lacks device and dtype
    return kind(  # type: ignore[no-any-return]
        requires_grad=tensor.requires_grad, device=device or tensor.device, dtype=tensor.dtype
    )


def copy_lazy(model: nn.Module) -> nn.Module:
    """A deep copy of a lazy model."""
    tensors = (t for _, module, _ in named_modules(model) for t in list_own_tensors(module))
    return copy.deepcopy(
        model, {id(t): copy_uninitialised(t) for t in tensors if is_uninitialised(t)}
    )
