"""A model without its data: a deep copy whose parameters and buffers are on the meta device, so
that it takes no memory.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def copy_to_meta(model: nn.Module) -> nn.Module:
    """A deep copy of `model` on the meta device; the model itself, its data and its hooks are left
    alone.

    >>> copy_to_meta(nn.Linear(4, 2)).weight.device.type
    'meta'
    """
    memo: dict[int, object] = {}  # for deepcopy: what is already "copied"
    for parameter in model.parameters():
        on_meta = _move_to_meta(parameter)
        if not is_lazy(parameter):
            on_meta = nn.Parameter(on_meta, requires_grad=parameter.requires_grad)
        memo[id(parameter)] = on_meta
    for buffer in model.buffers():
        memo[id(buffer)] = _move_to_meta(buffer)
    return copy.deepcopy(model, memo)


def _move_to_meta(tensor: Tensor) -> Tensor:
    if is_lazy(tensor):  # it has no shape yet
        kind: Any = type(tensor)  # its stub lacks device and dtype
        return kind(requires_grad=tensor.requires_grad, device="meta", dtype=tensor.dtype)  # type: ignore[no-any-return]
    return torch.empty_like(tensor.detach(), device="meta")
