"""Multiply-accumulates of one call, by the formulas of PyTorch's own flop registry, from shapes alone.

Convolutions and linear layers are asked directly. Any other function that may hide a product (matmul, einsum, attention, LSTM) is
replayed once per signature on the meta device under `torch.utils.flop_counter`, which gives the same number for every device and mode.
None is "no formula": such operations (normalisation, activations, pooling, additions) are by convention not counted, and are named as such.
"""

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

_FLOPS_A_MAC = 2
_modules = nn.modules
# Stock layers without a product in them. Others that have no formula of their own are looked into.
PLAIN_LAYERS = (
    _modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.Identity, nn.Flatten, nn.Unflatten,
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Softmax, nn.LogSoftmax, nn.Softplus, nn.Softmax2d, nn.Embedding, nn.Upsample, nn.PixelShuffle,
    _modules.dropout._DropoutNd, _modules.pooling._MaxPoolNd, _modules.pooling._AvgPoolNd, _modules.pooling._AdaptiveAvgPoolNd,
    _modules.pooling._AdaptiveMaxPoolNd, _modules.padding._ConstantPadNd, _modules.padding._ReflectionPadNd, _modules.padding._ReplicationPadNd,
)  # fmt: skip
# They move or select values and compute nothing: zero, not "no formula".
_MOVES = (
    "flatten reshape view permute transpose contiguous unsqueeze squeeze expand expand_as chunk split cat stack concat __getitem__ __setitem__ narrow "
    "detach clone to float double half bfloat16 type t T mT movedim swapaxes unbind unfold repeat tile roll flip select index_select zeros ones "
    "empty full arange tensor as_tensor new_zeros new_ones new_full zeros_like ones_like empty_like rand randn data view_as reshape_as cpu cuda "
    "unflatten swapdims moveaxis pad broadcast_to gather type_as zero_ copy_ fill_ identity alias real imag"
)
MOVES = frozenset(_MOVES.split())
_ARITHMETIC = (
    "relu relu_ add add_ sub mul mul_ div __rsub__ __rmul__ __radd__ neg exp log sqrt rsqrt pow sigmoid tanh gelu silu hardswish softmax log_softmax "
    "leaky_relu elu dropout batch_norm layer_norm group_norm instance_norm max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d max_pool1d "
    "avg_pool1d max_pool3d avg_pool3d mean sum max min amax amin std var clamp clamp_ interpolate abs where argmax eq ne lt gt le ge "
    "bernoulli_ normalize embedding hardsigmoid relu6 masked_fill cumsum topk sort"
)
ARITHMETIC = frozenset(_ARITHMETIC.split())


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
    return isinstance(module, PLAIN_LAYERS) or formula(module) is not None


def formula(
    module: nn.Module,
) -> Callable[[nn.Module, tuple[int, ...], tuple[int, ...]], int] | None:
    """What gives the MACs of one call of a stock layer from the shapes of its first input and output; None where there is none."""
    if isinstance(module, _modules.conv._ConvNd):
        return _convolution_layer
    return _linear_layer if isinstance(module, nn.Linear) else None


def is_moving(module: nn.Module) -> bool:
    """Whether a stock layer only moves values, and so computes nothing."""
    return isinstance(module, nn.Identity | nn.Flatten | nn.Unflatten)


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


@functools.lru_cache(maxsize=4096)
def convolution(
    given: tuple[int, ...], weight: tuple[int, ...], made: tuple[int, ...], *, transposed: bool
) -> int:
    """MACs of a convolution from the shapes of input, weight and output.

    >>> convolution((1, 3, 32, 32), (32, 3, 3, 3), (1, 32, 32, 32), transposed=False) == 32 * 32 * 32 * 3 * 9
    True
    """
    if len(given) == len(weight) - 1:  # no batch axis
        given, made = (1, *given), (1, *made)
    return (
        _flops(
            torch.ops.aten.convolution,
            given,
            weight,
            None,
            None,
            None,
            None,
            transposed,
            out_val=made,
        )
        // _FLOPS_A_MAC
    )


@functools.lru_cache(maxsize=4096)
def linear(given: tuple[int, ...], made: tuple[int, ...]) -> int:
    """MACs of a linear layer from the shapes of input and output."""
    rows = 1
    for n in given[:-1]:
        rows *= n
    return (
        _flops(
            torch.ops.aten.mm, (rows, given[-1]), (given[-1], made[-1]), out_val=(rows, made[-1])
        )
        // _FLOPS_A_MAC
    )


def _flops(operation: Any, *shapes: Any, **keywords: Any) -> int:
    return int(flop_registry[operation](*shapes, **keywords))


# One call without a product (of empty tensors, say) tells nothing of the next.
_PRODUCTS = frozenset(
    [
        "matmul",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "addbmm",
        "mv",
        "dot",
        "inner",
        "einsum",
        "tensordot",
        "bilinear",
        "multi_dot",
        "chain_matmul",
        "scaled_dot_product_attention",
        "multi_head_attention_forward",
        "lstm",
        "gru",
        "rnn_tanh",
        "rnn_relu",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "linear",
    ]
)
_without_product: set[str] = set()
_counts: dict[str, int | None] = {}


class Counting(enum.Enum):
    """How the multiply-accumulates of a function are found."""

    MOVES = enum.auto()  # it moves values: zero
    UNCOUNTED = enum.auto()  # it has no formula
    SHAPES = enum.auto()  # from the shapes of what went in and came out
    REPLAY = enum.auto()  # by a Pending that is settled when the forward is over


def counting_of(name: str) -> Counting:
    """How a function of this name ("matmul") is counted."""
    if name in MOVES:
        return Counting.MOVES
    if name in ARITHMETIC:
        return Counting.UNCOUNTED
    return Counting.SHAPES if name in ("linear", "conv1d", "conv2d", "conv3d") else Counting.REPLAY


def is_without_product(kind: str) -> bool:
    """Whether a function of this kind was looked into before and nothing in it has a formula."""
    return kind in _without_product


def of_function(name: str, given: Sequence[tuple[int, ...]], made: tuple[int, ...]) -> int | None:
    """MACs of one call of a linear layer or a convolution as a function, from the shapes of its tensors and of its output."""
    if name == "linear" and given:
        return linear(given[0], made)
    return convolution(given[0], given[1], made, transposed=False) if len(given) > 1 else None


def pending(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Pending:
    """The call with its tensors reduced to what the meta device needs, so that it keeps none of them."""
    return Pending(
        function,
        tuple(_reduced(value) for value in args),
        tuple((k, _reduced(v)) for k, v in kwargs.items()),
    )


def _reduced(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Meta(tuple(value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple(_reduced(item) for item in value)
    return "meta" if isinstance(value, torch.device) else value


def _expanded(value: Any) -> Any:
    if isinstance(value, Meta):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return tuple(_expanded(item) for item in value) if isinstance(value, tuple) else value


def settle(call: Pending, kind: str) -> int | None:
    """MACs of a pending call, by replaying it on the meta device; None where nothing in it has a formula or it cannot run there."""
    key = f"{kind}{call.arguments}{call.keywords}"
    if key not in _counts:
        try:
            with (
                torch.utils._python_dispatch._disable_current_modes(),
                torch.no_grad(),
                FlopCounterMode(display=False) as counter,
            ):
                call.function(
                    *_expanded(call.arguments),
                    **{name: _expanded(value) for name, value in call.keywords},
                )
            _counts[key] = counter.get_total_flops() // _FLOPS_A_MAC or None
        except (
            Exception
        ):  # an operation without a meta kernel cannot be counted, and is named as uncounted
            _counts[key] = None
        else:
            if _counts[key] is None and kind.rsplit(".", maxsplit=1)[-1] not in _PRODUCTS:
                _without_product.add(kind)
    return _counts[key]
