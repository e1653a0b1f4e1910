"""Shapes that were worked out before: torch's own rules for them are Python, and take a hundred
times as long as to look up what they gave for the same shapes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Without gradients what they put out is new memory, and its shape follows from their arguments
# alone; none draws random numbers, writes to what it is given, or gives a view of it.
_NEW = frozenset(
    {
        torch.add, torch.sub, torch.mul, torch.div, torch.matmul, torch.bmm, torch.cat, torch.relu, torch.sigmoid, torch.tanh,
        torch.conv1d, torch.conv2d, torch.conv3d, torch.max_pool2d, torch.layer_norm, torch.group_norm, torch.softmax,
        torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.matmul, torch.Tensor.relu,
        torch.Tensor.sigmoid, F.linear, F.gelu, F.avg_pool2d, torch._C._nn.adaptive_avg_pool2d, torch._C._nn.silu,
        torch._C._nn.hardsigmoid, torch._C._nn.hardswish, F.layer_norm, F.group_norm, F.adaptive_avg_pool2d, F.max_pool2d, F.softmax,
    }
)  # fmt: skip
# The same, or they write to their first argument and give it back.
_NEW_OR_SAME = frozenset(
    {F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, torch.relu_, torch.Tensor.add_, torch.Tensor.mul_}
)  # fmt: skip
_EXACT = frozenset({Tensor, torch.nn.Parameter})
_PLAIN = frozenset({bool, int, float, str, type(None), torch.dtype, torch.Size})
_is_any_autocast = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)
Made = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
_SAME: Made = ((), (), torch.float32)  # its first argument


class _Unknown(Exception):  # noqa: N818 - no error: the function is called, as it would be anyway
    """An argument that a shape may depend on otherwise."""


class Recalled:
    """The shapes of one pass, by function and arguments."""

    def __init__(self) -> None:
        self._made: dict[Any, Made] = {}

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """What `function` gives, on meta; called only where its shape is not known yet."""
        if (
            not _makes_new(function, args, kwargs)
            or torch.is_grad_enabled()
            or torch._C._len_torch_dispatch_stack()
            or _is_any_autocast()
        ):
            return function(*args, **kwargs)
        try:
            key = function, _describe(args), _describe(tuple(kwargs.items()))
        except (_Unknown, RuntimeError, TypeError):
            return function(*args, **kwargs)
        made = self._made.get(key)
        if made is _SAME:
            torch.autograd.graph.increment_version(args[0])
            return args[0]
        if made is not None:
            with torch._C.DisableTorchFunction():
                return torch.empty_strided(made[0], made[1], dtype=made[2], device="meta")
        output = function(*args, **kwargs)
        if args and output is args[0]:
            self._made[key] = _SAME
        elif type(output) is Tensor and output.is_meta and output.layout is torch.strided:
            self._made[key] = tuple(output.shape), output.stride(), output.dtype
        return output


def _makes_new(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether it puts out new memory, or its first argument, and writes to nothing else."""
    if function is F.batch_norm:  # in training it writes to the running statistics
        training = args[5] if len(args) > 5 else kwargs.get("training", False)
        return training is False
    return function in _NEW_OR_SAME or (function in _NEW and "out" not in kwargs)


def _describe(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a shape may follow from, as a key.

    Raises:
        _Unknown: one of the values is of a kind that is not known.
    """
    found: list[Any] = []
    for value in values:
        kind = type(value)
        if kind in _EXACT:
            if not value.is_meta or value.is_nested or value.layout is not torch.strided:
                raise _Unknown
            found.append((value.shape, value.stride(), value.dtype))
        elif kind in _PLAIN:
            found.append((kind, value))
        elif kind is tuple or kind is list:
            found.append(_describe(tuple(value)))
        else:
            raise _Unknown
    return tuple(found)
