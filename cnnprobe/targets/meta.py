"""A model without its data: a deep copy whose parameters and buffers are on the meta device, so that it takes no memory."""

import copy

import torch
from torch import Tensor, nn


def meta_copy(model: nn.Module) -> nn.Module:
    """A deep copy of `model` on the meta device; the model itself, its data and its hooks are left alone.

    >>> meta_copy(nn.Linear(4, 2)).weight.device.type
    'meta'
    """
    memo: dict[int, object] = {}  # for deepcopy: what is already "copied"
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(
            _on_meta(parameter), requires_grad=parameter.requires_grad
        )
    for buffer in model.buffers():
        memo[id(buffer)] = _on_meta(buffer)
    return copy.deepcopy(model, memo)


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor.detach(), device="meta")
