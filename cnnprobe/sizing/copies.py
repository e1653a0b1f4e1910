"""The copies that oneDNN makes of the tensors of a convolution on the CPU, in layouts of its
own.
"""

from typing import Any

import torch
from torch import Tensor

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default
_TRANSPOSED = 6  # argument of the forward; such an output is copied twice
_FEW_CHANNELS = 3  # an input with so few is read as it lies
_SUPPORTED = (torch.float32, torch.bfloat16)


def count_copies(func: Any, args: tuple[Any, ...], output: Any) -> int:
    """Bytes that are alive during a convolution besides its inputs and outputs, as torch.profiler
    shows them: first of the input and the weight, then of the output; in the backward pass of the
    output's gradient and of the input.

    Source: aten/src/ATen/native/mkldnn/Conv.cpp and ideep's `reorder_if_differ_in`.
    """
    if func not in (_FORWARD, _BACKWARD) or not _has_onednn():
        return 0
    x, weight = args[:2] if func is _FORWARD else args[1:3]
    if x.device.type != "cpu" or x.dtype not in _SUPPORTED:
        return 0
    copied = _count(x) if x.shape[1] > _FEW_CHANNELS else 0
    if func is _FORWARD:
        made = _count(output) * (2 if args[_TRANSPOSED] else 1)
        return max(copied + _count(weight), made)
    # the gradient of a bfloat16 weight is summed up in float32
    summed = 4 * weight.numel() if weight.dtype is torch.bfloat16 else 0
    return _count(args[0]) + copied + summed


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _count(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
