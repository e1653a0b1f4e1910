"""Shapes that were worked out before: torch's own rules for them are Python, and take a hundred
times as long as to look up what they gave for the same shapes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

# What they put out is new memory, and its shape follows from their arguments alone; none draws
# random numbers, writes to values, or gives a view of what it is given.
_NEW = frozenset(
    {
        torch.add, torch.sub, torch.mul, torch.div, torch.matmul, torch.bmm, torch.cat, torch.relu,
        torch.sigmoid, torch.tanh, torch.conv1d, torch.conv2d, torch.conv3d, torch.max_pool2d,
        torch.layer_norm, torch.group_norm, torch.softmax, torch.Tensor.add, torch.Tensor.__add__,
        torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.matmul, torch.Tensor.relu,
        torch.Tensor.sigmoid, F.linear, F.gelu, F.avg_pool2d, torch._C._nn.adaptive_avg_pool2d,
        torch._C._nn.silu, torch._C._nn.hardsigmoid, torch._C._nn.hardswish, F.layer_norm,
        F.group_norm, F.adaptive_avg_pool2d, F.max_pool2d, F.softmax,
        # In training it writes to the running statistics, of which there are no values.
        F.batch_norm,
    }
)  # fmt: skip
# The same, or they write to their first argument and give it back.
_NEW_OR_SAME = frozenset(
    {F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, torch.relu_, torch.Tensor.add_,
        torch.Tensor.mul_}
)  # fmt: skip
_EXACT = frozenset({Tensor, torch.nn.Parameter})
_PLAIN = frozenset({bool, int, float, str, type(None), torch.dtype, torch.Size})
_META = torch.device("meta")
_is_any_autocast = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


class _Made(NamedTuple):
    """A tensor that a function has put out."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool = False


_SAME = _Made((), (), torch.float32)  # its first argument


class _Unknown(Exception):  # noqa: N818 - no error: the function is called, as it would be anyway
    """An argument that a shape may depend on otherwise."""


class Recalled:
    """The shapes of one pass, by function and arguments."""

    def __init__(self) -> None:
        self._made: dict[Any, _Made] = {}

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """What `function` gives, on meta; called only where its shape is not known yet."""
        is_known = function in _NEW_OR_SAME or (function in _NEW and "out" not in kwargs)
        if not is_known or _is_transformed():
            return function(*args, **kwargs)
        given: list[Tensor] = []
        with torch._C.DisableTorchFunction():  # to look at a tensor is no event
            try:
                described = _describe(args, given), _describe(tuple(kwargs.items()), given)
            except (_Unknown, RuntimeError, TypeError):
                described = None
            key = function, described, torch.is_grad_enabled()
            made = self._made.get(key) if described is not None else None
            if made is not None and (made is not _SAME or _is_free(args[0])):
                return _make_again(made, args, given)
        output = function(*args, **kwargs)
        if described is not None and made is None:
            self._keep(key, args, output, given)
        return output

    def _keep(self, key: Any, args: tuple[Any, ...], output: Any, given: list[Tensor]) -> None:
        with torch._C.DisableTorchFunction():
            if args and output is args[0]:
                # In a graph it stays in its place only if nothing else that requires grad comes in.
                others = [tensor for tensor in given if tensor is not output]
                if not torch.is_grad_enabled() or not others:
                    self._made[key] = _SAME
            elif type(output) is Tensor and output.is_meta and output.layout is torch.strided:
                shape, stride = tuple(output.shape), output.stride()
                self._made[key] = _Made(shape, stride, output.dtype, output.requires_grad)


def _is_transformed() -> bool:
    """Whether more than a shape is asked for: by autocast, a dispatch mode, vmap or jvp."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or _is_any_autocast()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _is_free(tensor: Tensor) -> bool:
    """Whether autograd lets one write to a tensor without a further look."""
    return not torch.is_grad_enabled() or not (tensor.is_leaf or tensor._is_view())


def _make_again(made: _Made, args: tuple[Any, ...], given: list[Tensor]) -> Tensor:
    if made is _SAME:
        torch.autograd.graph.increment_version(args[0])
        return args[0]  # type: ignore[no-any-return]
    if made.requires_grad:
        return _Recall.apply(made, *given)  # type: ignore[no-any-return]
    return torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device=_META)


class _Recall(torch.autograd.Function):
    """A tensor like one that was made before, behind those that require grad of what is given: who
    asks for a gradient inside of the forward gets one, of the right shape.
    """

    @staticmethod
    def forward(ctx: Any, made: _Made, *given: Tensor) -> Tensor:
        """A new tensor."""
        ctx.given = given
        return torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device=_META)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Gradients, behind what they would be computed from."""
        with torch._C.DisableTorchFunction():
            behind = (*gradients, *ctx.given)
            made = (_Made(tuple(t.shape), t.stride(), t.dtype) for t in ctx.given)
            return None, *(_Recall.apply(each, *behind) for each in made)


def _describe(values: tuple[Any, ...], given: list[Tensor]) -> tuple[Any, ...]:
    """What a shape may follow from, as a key; the tensors that require grad go to `given`.

    Raises:
        _Unknown: one of the values is of a kind that is not known.
    """
    found: list[Any] = []
    for value in values:
        kind = type(value)
        if kind in _EXACT:
            if not value.is_meta or value.is_nested or value.layout is not torch.strided:
                raise _Unknown
            if value.requires_grad:
                given.append(value)
            found.append((value.shape, value.stride(), value.dtype, value.requires_grad))
        elif kind in _PLAIN:
            found.append((kind, value))
        elif kind is tuple or kind is list:
            found.append(_describe(tuple(value), given))
        else:
            raise _Unknown
    return tuple(found)
