"""Multiply-accumulates of one call, by the formulas of PyTorch's own flop registry, from shapes
alone.

Those of convolutions and linear layers stand here, as loading torch's takes a hundred times as long
as counting a model. Any other function that may hide a product (matmul, einsum, attention, LSTM) is
replayed once per signature on the meta device under `torch.utils.flop_counter`, which gives the
same number for every device and mode. None is "no
formula": such operations (normalisation, activations, pooling, additions) are by convention not
counted, and are named as such.
"""

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.operations import (
    Effect,
    Family,
    OperationInfo,
    find_function,
    find_layer,
    is_writing,
    read_name,
    resolve_name,
)
from cnnprobe.recorder.values import read_shape

_modules = nn.modules
_DIRECT = ("linear", "conv1d", "conv2d", "conv3d")  # as functions: from the shapes of their tensors
# They move or select values and compute nothing: zero, not "no formula".
_MOVING: tuple[Effect, ...] = (
    "keeps", "rearranges", "reshapes", "turns", "selects", "expands", "pads", "joins", "makes",
    "fills",
)  # fmt: skip
_COMPUTING: tuple[Family, ...] = ("ranking", "arithmetic")  # though they only select or fill


@dataclass(frozen=True, slots=True)
class Meta:
    """A tensor's shape and dtype, standing for it in a Pending call."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Pending:
    """A function call still to be counted, with its tensors reduced to shape and dtype."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]


def is_plain(module: nn.Module) -> bool:
    """Whether a stock layer's cost is known without looking into it."""
    info = _find_info(type(module))
    return formula(module) is not None or (info is not None and "product" not in info.traits)


def formula(
    module: nn.Module,
) -> Callable[[nn.Module, tuple[int, ...], tuple[int, ...]], int] | None:
    """What gives the MACs of one call of a stock layer from the shapes of its first input and
    output; None where there is none.
    """
    if isinstance(module, _modules.conv._ConvNd):
        return _convolution_layer
    return _linear_layer if isinstance(module, nn.Linear) else None


def is_moving(module: nn.Module) -> bool:
    """Whether a stock layer only moves values, and so computes nothing."""
    info = _find_info(type(module))
    return info is not None and _is_moving_values(info)


def _find_info(kind: type) -> OperationInfo | None:
    """The operation of a layer of torch's, or of the one that it is derived from."""
    names = (base.__name__ for base in kind.__mro__ if base.__module__.startswith("torch.nn."))
    return next((info for name in names if (info := find_layer(name)) is not None), None)


def _is_moving_values(info: OperationInfo) -> bool:
    return info.effect in _MOVING and info.family not in _COMPUTING


def _convolution_layer(module: Any, given: tuple[int, ...], made: tuple[int, ...]) -> int:
    per_group = (
        module.out_channels // module.groups
        if module.transposed
        else module.in_channels // module.groups
    )
    first = module.in_channels if module.transposed else module.out_channels
    return convolution(
        given, (first, per_group, *module.kernel_size), made, transposed=module.transposed
    )


def _linear_layer(_: Any, given: tuple[int, ...], made: tuple[int, ...]) -> int:
    return linear(given, made)


def convolution(
    given: tuple[int, ...], weight: tuple[int, ...], made: tuple[int, ...], *, transposed: bool
) -> int:
    """MACs of a convolution from the shapes of input, weight and output: each weight is used once
    for every sample and every position of the output (of the input, where transposed).

    >>> convolution((1, 3, 32, 32), (32, 3, 3, 3), (1, 32, 32, 32), transposed=False) == 32 * 32 * 32 * 3 * 9
    True
    """  # noqa: E501
    spatial = len(weight) - 2
    samples = given[0] if len(given) == len(weight) else 1  # a sample may come without a batch
    positions = (given if transposed else made)[-spatial:]
    return samples * math.prod(positions) * math.prod(weight)


def linear(given: tuple[int, ...], made: tuple[int, ...]) -> int:
    """MACs of a linear layer from the shapes of input and output."""
    return math.prod(given) * made[-1]


_without_product: set[str] = set()
_counts: dict[str, int | None] = {}


class Counting(enum.Enum):
    """How the multiply-accumulates of a function are found."""

    MOVES = enum.auto()  # it moves values: zero
    UNCOUNTED = enum.auto()  # it has no formula
    SHAPES = enum.auto()  # from the shapes of what went in and came out
    REPLAY = enum.auto()  # by a Pending that is settled when the forward is over


def counting_of(kind: str) -> Counting:
    """How a function of this public name ("torch.matmul") is counted."""
    info = find_function(kind)
    if info is None:
        return Counting.REPLAY
    if _is_moving_values(info):
        return Counting.MOVES
    if "product" not in info.traits:
        return Counting.UNCOUNTED
    return Counting.SHAPES if info.name in _DIRECT else Counting.REPLAY


def is_without_product(kind: str) -> bool:
    """Whether a function of this kind was looked into before and nothing in it has a formula."""
    return kind in _without_product


def of_function(kind: str, given: Sequence[tuple[int, ...]], made: tuple[int, ...]) -> int | None:
    """MACs of one call of a linear layer or a convolution as a function, from the shapes of its
    tensors and of its output.
    """
    if resolve_name(kind) == "linear" and given:
        return linear(given[0], made)
    return convolution(given[0], given[1], made, transposed=False) if len(given) > 1 else None


def pending(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Pending:
    """The call with its tensors reduced to what the meta device needs, so that it keeps none of
    them.
    """
    return Pending(
        function,
        tuple(_reduced(value) for value in args),
        tuple((k, _reduced(v)) for k, v in kwargs.items()),
    )


def _reduced(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Meta(read_shape(value), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(_reduced(item) for item in value)
    return "meta" if isinstance(value, torch.device) else value


def _expanded(value: Any) -> Any:
    if isinstance(value, Meta):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return tuple(_expanded(item) for item in value) if isinstance(value, tuple) else value


def _find_plain_form(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """The form of a function that writes nowhere: torch's registry has a formula for addmm, not for
    addmm_.
    """
    name = read_name(kind)
    return getattr(Tensor, name[:-1], function) if is_writing(kind) else function


def settle(call: Pending, kind: str) -> int | None:
    """MACs of a pending call, by replaying it on the meta device; None where nothing in it has a
    formula or it cannot run there.
    """
    key = f"{kind}{call.arguments}{call.keywords}"
    if key not in _counts:
        from torch.utils.flop_counter import FlopCounterMode  # it loads Triton, where there is one

        try:
            with (
                torch.utils._python_dispatch._disable_current_modes(),
                torch.no_grad(),
                FlopCounterMode(display=False) as counter,
            ):
                _find_plain_form(call.function, kind)(
                    *_expanded(call.arguments),
                    **{name: _expanded(value) for name, value in call.keywords},
                )
            _counts[key] = counter.get_total_flops() // 2 or None
        except (
            Exception
        ):  # an operation without a meta kernel cannot be counted, and is named as uncounted
            _counts[key] = None
        else:
            # One call of a product (of empty tensors, say) tells nothing of the next.
            if _counts[key] is None and find_function(kind) is None:
                _without_product.add(kind)
    return _counts[key]
