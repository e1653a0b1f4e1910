"""A call of each operation of the catalogue, by each of its spellings, on arguments that fit it."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnprobe.operations import OperationInfo, find_function, find_signature

PLACES = {
    "torch": torch,
    "torch.Tensor": Tensor,
    "torch.nn.functional": F,
    "torch.special": torch.special,
    "torch.linalg": torch.linalg,
    "torch.ops.aten": torch.ops.aten,
}
_QUALIFIED = {
    "functional": "torch.nn.functional",
    "Tensor": "torch.Tensor",
    "special": "torch.special",
    "linalg": "torch.linalg",
}
# Named tensors, or another machine.
_ELSEWHERE = {"cuda", "xpu", "pin_memory"}
_OPEN = ("torch", "torch.Tensor", "torch.nn.functional", "torch.special")


@dataclass(frozen=True)
class Spelling:
    """One way to write an operation: its public name, and what calls it."""

    kind: str
    call: Callable[..., Any]
    in_place: bool


_found: dict[str, list[Spelling]] = {}


def spellings(info: OperationInfo) -> list[Spelling]:
    """Every way to write an operation that this version of torch has."""
    if info.name not in _found:
        _found[info.name] = [s for name in info.functions for s in spellings_of(info, name)]
    return _found[info.name]


def spellings_of(info: OperationInfo, name: str) -> list[Spelling]:
    """Where one spelling is found, with its in-place form; in torch.ops.aten where nowhere else."""
    place, _, last = name.rpartition(".")
    places = [_QUALIFIED[place]] if place else ["torch.Tensor"] if last.endswith("__") else _OPEN
    names = [last] if last.endswith("__") else [last, f"{last}_"]
    if name in _ELSEWHERE:
        return []
    if not any(_has(p, n) for p in places for n in names):
        places, names = ["torch.ops.aten"], [last]
    return [
        Spelling(f"{p}.{n}", _callable(p, n), n != last or _is_assigning(last))
        for p in places
        for n in names
        if _has(p, n) and find_function(f"{p}.{n}") is info
    ]


def _callable(place: str, name: str) -> Callable[..., Any]:
    found = getattr(PLACES[place], name)
    return found if callable(found) else lambda x: getattr(x, name)


def _is_assigning(name: str) -> bool:
    """Whether it is the method of `+=` and its kind."""
    return name.startswith("__i") and hasattr(Tensor, f"__{name[3:]}")


def _has(place: str, name: str) -> bool:
    """Whether there is such a function; torch.float is a dtype, torch.random a module."""
    found = getattr(PLACES[place], name, None)
    return found is not None and (callable(found) or place == "torch.Tensor")


def _rand(*shape: int) -> Tensor:
    return torch.rand(*shape) * 0.8 + 0.1


def _whole(*shape: int) -> Tensor:
    return torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape) % 7


_BY_ARGUMENT: Mapping[str, Callable[[], Any]] = {
    "input": lambda: _rand(2, 4, 6),
    "other": lambda: _rand(2, 4, 6),
    "dim": lambda: 1,
    "dim0": lambda: 1,
    "dim1": lambda: 2,
    "dims": lambda: (0, 2, 1),
    "size": lambda: (2, 4, 6),
    "shape": lambda: (2, 24),
    "index": lambda: torch.tensor([0, 1]),
    "n": lambda: 2,
    "A": lambda: _rand(3, 3) + torch.eye(3),
    "x1": lambda: _rand(4, 6),
    "x2": lambda: _rand(4, 6),
    "input1": lambda: _rand(4, 6),
    "input2": lambda: _rand(4, 6),
    "kernel_size": lambda: 2,
    "exponent": lambda: 2.0,
    "output_size": lambda: 2,
    "p": lambda: 0.5,
    "value": lambda: 0.5,
    "mask": lambda: torch.arange(48).reshape(2, 4, 6) % 2 > 0,
    "values": lambda: _rand(2, 4, 6),
    "end": lambda: _rand(2, 4, 6),
    "weight": lambda: _rand(2, 4, 6),
    "tensor1": lambda: _rand(2, 4, 6),
    "tensor2": lambda: _rand(2, 4, 6),
    "min": lambda: 0.3,
    "max": lambda: 0.4,
    "tensors": lambda: [_rand(2, 4), _rand(2, 4)],
    "fill_value": lambda: 0.5,
    "indices": lambda: torch.tensor([0, 1]),
    "k": lambda: 2,
    "normalized_shape": lambda: (6,),
    "num_groups": lambda: 2,
    "start": lambda: 0,
    "length": lambda: 2,
    "target": lambda: _rand(4, 6),
    "bias": lambda: None,
    "running_mean": lambda: None,
    "running_var": lambda: None,
    "groups": lambda: 2,
    "training": lambda: True,
    "momentum": lambda: 0.1,
    "eps": lambda: 1e-5,
    "cudnn_enabled": lambda: False,
    "use_input_stats": lambda: True,
    "dtype": lambda: torch.float64,
    "condition": lambda: torch.arange(48).reshape(2, 4, 6) % 2 > 0,
    "data": lambda: [0.5],
    "low": lambda: 0,
    "high": lambda: 3,
    "src": lambda: _rand(2, 4, 6),
    "source": lambda: _rand(2, 2, 6),
    "anchor": lambda: _rand(4, 6),
    "positive": lambda: _rand(4, 6),
    "negative": lambda: _rand(4, 6),
    "lower": lambda: None,
    "norm_type": lambda: 2.0,
    "threshold": lambda: 0.3,
    "chunks": lambda: 2,
    "decimals": lambda: 0,
    "split_size_or_sections": lambda: 2,
    "split_sizes": lambda: [1, 3],
    "indices_or_sections": lambda: 2,
    "sizes": lambda: (2, 2),
    "shifts": lambda: 1,
    "upscale_factor": lambda: 2,
    "downscale_factor": lambda: 2,
    "repeats": lambda: 2,
    "stride": lambda: (1, 1),
    "mean": lambda: torch.zeros(3),
    "std": lambda: torch.ones(3),
    "num_samples": lambda: 2,
    "q": lambda: 0.5,
    "bins": lambda: 10,
}
_MAP = (2, 4, 8, 8)


def _windowed(n: int) -> dict[str, Callable[[], dict[str, Any]]]:
    size = (2, 4, *(8,) * n)
    return {
        f"conv{n}d": lambda: {"input": _rand(*size), "weight": _rand(3, 4, *(3,) * n)},
        f"conv_transpose{n}d": lambda: {"input": _rand(*size), "weight": _rand(4, 3, *(3,) * n)},
        f"max_unpool{n}d": lambda: dict(
            zip(
                ("input", "indices", "kernel_size"),
                (*getattr(F, f"max_pool{n}d")(_rand(*size), 2, return_indices=True), 2),
                strict=True,
            )
        ),
        f"fractional_max_pool{n}d": lambda: {
            "input": _rand(*size),
            "kernel_size": 2,
            "output_size": (3,) * n,
        },
        **{
            f"{name}_pool{n}d": lambda k=key, v=value: {"input": _rand(*size), k: v}
            for name, key, value in (
                ("max", "kernel_size", 2),
                ("avg", "kernel_size", 2),
                ("adaptive_max", "output_size", 2),
                ("adaptive_avg", "output_size", 2),
            )
        },
        f"lp_pool{n}d": lambda: {"input": _rand(*size), "norm_type": 2.0, "kernel_size": 2},
    }


_STEPS = {
    "has_biases": True,
    "num_layers": 1,
    "dropout": 0.0,
    "train": True,
    "bidirectional": False,
    "batch_first": False,
}


def _recurrent(gates: int, states: int) -> dict[str, Any]:
    hidden = [torch.zeros(1, 2, 5)] * states
    params = [_rand(5 * gates, 4), _rand(5 * gates, 5), _rand(5 * gates), _rand(5 * gates)]
    return {
        "input": _rand(3, 2, 4),
        "hx": hidden if states > 1 else hidden[0],
        "params": params,
        **_STEPS,
    }


def _cell(gates: int, states: int) -> dict[str, Any]:
    hidden = [torch.zeros(2, 5)] * states
    return {
        "input": _rand(2, 4),
        "hx": hidden if states > 1 else hidden[0],
        "w_ih": _rand(5 * gates, 4),
        "w_hh": _rand(5 * gates, 5),
    }


def _classes() -> dict[str, Any]:
    return {"input": _rand(4, 6).log(), "target": torch.tensor([0, 1, 2, 5])}


def _signs() -> dict[str, Any]:
    return {"input": _rand(4, 6), "target": torch.ones(4, 6)}


_IN_SQUARE = lambda: _rand(3, 3)
_SAMPLES: Mapping[str, Callable[[], dict[str, Any]]] = {
    **_windowed(1),
    **_windowed(2),
    **_windowed(3),
    **{
        name: lambda: {"input": torch.tensor([[1, 0], [2, 3]]) > 1}
        for name in ("bitwise_not", "logical_not")
    },
    **{
        name: lambda: {"input": _whole(2, 3), "other": _whole(2, 3) + 1}
        for name in (
            "gcd",
            "lcm",
            "bitwise_and",
            "bitwise_or",
            "bitwise_xor",
            "bitwise_left_shift",
            "bitwise_right_shift",
            "rbitwise_left_shift",
            "rbitwise_right_shift",
        )
    },
    **{name: lambda: {"input": _rand(2, 3) + 2} for name in ("acosh", "mvlgamma")},
    "special.zeta": lambda: {"input": _rand(2) + 1.5, "other": _rand(2)},
    "clamp": lambda: {"input": _rand(2, 4), "min": 0.3, "max": 0.6},
    "split_with_sizes": lambda: {"input": _rand(2, 4), "split_sizes": [1, 3], "dim": 1},
    "multilabel_soft_margin_loss": _signs,
    "binary_cross_entropy": _signs,
    "binary_cross_entropy_with_logits": _signs,
    "mse_loss": _signs,
    "l1_loss": _signs,
    "smooth_l1_loss": _signs,
    "huber_loss": _signs,
    "poisson_nll_loss": lambda: {**_signs(), "log_input": True, "full": False, "eps": 1e-8},
    **{
        name: lambda: {"input": _rand(2, 4, 6), "p": 0.5, "training": True}
        for name in ("dropout", "dropout1d", "alpha_dropout", "feature_alpha_dropout")
    },
    **{
        name: lambda: {"input": _rand(2, 4, 6, 6, 6), "p": 0.5, "training": True}
        for name in ("dropout3d",)
    },
    "dropout2d": lambda: {"input": _rand(2, 4, 6, 6), "p": 0.5, "training": True},
    "mvlgamma": lambda: {"input": _rand(2, 3) + 2, "p": 2},
    "polygamma": lambda: {"n": 1, "input": _rand(2, 3)},
    "pow": lambda: {"input": _rand(2, 3), "exponent": _rand(2, 3)},
    "rpow": lambda: {"input": 2.0, "other": _rand(2, 3)},
    "rsub": lambda: {"input": 2.0, "other": _rand(2, 3)},
    "rdiv": lambda: {"input": 2.0, "other": _rand(2, 3)},
    "rremainder": lambda: {"input": 2.0, "other": _rand(2, 3)},
    "rfloor_divide": lambda: {"input": 2.0, "other": _rand(2, 3)},
    "rmatmul": lambda: {"input": _rand(4, 2), "other": _rand(2, 4)},
    "type": lambda: {"input": _rand(2, 3), "dtype": torch.float64},
    "type_as": lambda: {"input": _rand(2, 3), "other": torch.ones(1, dtype=torch.float64)},
    "imag": lambda: {"input": torch.complex(_rand(2), _rand(2))},
    "real": lambda: {"input": torch.complex(_rand(2), _rand(2))},
    "view_as_complex": lambda: {"input": _rand(3, 2)},
    "view_as_real": lambda: {"input": torch.complex(_rand(2), _rand(2))},
    "prelu": lambda: {"input": _rand(2, 4, 6), "weight": torch.tensor([0.2])},
    "gumbel_softmax": lambda: {"logits": _rand(2, 4)},
    "softmax": lambda: {"input": _rand(2, 4, 6), "dim": 1},
    "log_softmax": lambda: {"input": _rand(2, 4, 6), "dim": 1},
    "softmin": lambda: {"input": _rand(2, 4, 6), "dim": 1},
    "batch_norm": lambda: {
        "input": _rand(*_MAP),
        "weight": None,
        "running_mean": torch.zeros(4),
        "running_var": torch.ones(4),
        "training": True,
    },
    "instance_norm": lambda: {"input": _rand(*_MAP), "weight": _rand(4), "bias": _rand(4)},
    "layer_norm": lambda: {"input": _rand(2, 6), "normalized_shape": (6,), "weight": _rand(6)},
    "group_norm": lambda: {"input": _rand(2, 4, 6), "num_groups": 2, "weight": _rand(4)},
    "local_response_norm": lambda: {"input": _rand(*_MAP), "size": 2},
    "renorm": lambda: {"input": _rand(3, 3), "p": 2, "dim": 0, "maxnorm": 0.5},
    "unfold": lambda: {"input": _rand(*_MAP), "kernel_size": 2},
    "fold": lambda: {"input": _rand(2, 16, 49), "output_size": (8, 8), "kernel_size": 2},
    "conv_tbc": lambda: {"input": _rand(5, 2, 4), "weight": _rand(3, 4, 3), "bias": _rand(3)},
    "convolution": lambda: {
        "input": _rand(*_MAP),
        "weight": _rand(3, 4, 3, 3),
        "bias": None,
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "transposed": False,
        "output_padding": [0, 0],
        "groups": 1,
    },
    "linear": lambda: {"input": _rand(2, 4), "weight": _rand(3, 4)},
    "bilinear": lambda: {"input1": _rand(2, 4), "input2": _rand(2, 3), "weight": _rand(5, 4, 3)},
    "matmul": lambda: {"input": _rand(3, 4), "other": _rand(4, 5)},
    "addmm": lambda: {"input": _rand(3, 5), "mat1": _rand(3, 4), "mat2": _rand(4, 5)},
    "addbmm": lambda: {"input": _rand(3, 5), "batch1": _rand(2, 3, 4), "batch2": _rand(2, 4, 5)},
    "baddbmm": lambda: {
        "input": _rand(2, 3, 5),
        "batch1": _rand(2, 3, 4),
        "batch2": _rand(2, 4, 5),
    },
    "addmv": lambda: {"input": _rand(3), "mat": _rand(3, 4), "vec": _rand(4)},
    "mv": lambda: {"input": _rand(3, 4), "vec": _rand(4)},
    "dot": lambda: {"input": _rand(3), "tensor": _rand(3)},
    "vdot": lambda: {"input": _rand(3), "other": _rand(3)},
    "inner": lambda: {"input": _rand(2, 3), "other": _rand(4, 3)},
    "tensordot": lambda: {"a": _rand(2, 3, 4), "b": _rand(3, 4, 5)},
    "einsum": lambda: {"equation": "ij,jk->ik", "operands": [_rand(2, 3), _rand(3, 4)]},
    "chain_matmul": lambda: {"matrices": [_rand(2, 3), _rand(3, 4)]},
    "matrix_power": lambda: {"input": _IN_SQUARE(), "n": 3},
    "scaled_dot_product_attention": lambda: {
        "query": _rand(2, 3, 4),
        "key": _rand(2, 3, 4),
        "value": _rand(2, 3, 4),
    },
    "outer": lambda: {"input": _rand(3), "vec2": _rand(4)},
    "addr": lambda: {"input": _rand(3, 4), "vec1": _rand(3), "vec2": _rand(4)},
    "kron": lambda: {"input": _rand(2, 2), "other": _rand(3, 3)},
    "multi_head_attention_forward": lambda: {
        "query": _rand(3, 2, 4),
        "key": _rand(3, 2, 4),
        "value": _rand(3, 2, 4),
        "embed_dim_to_check": 4,
        "num_heads": 2,
        "in_proj_weight": _rand(12, 4),
        "in_proj_bias": _rand(12),
        "bias_k": None,
        "bias_v": None,
        "add_zero_attn": False,
        "dropout_p": 0.0,
        "out_proj_weight": _rand(4, 4),
        "out_proj_bias": _rand(4),
    },
    "lstm": lambda: _recurrent(4, 2),
    "gru": lambda: _recurrent(3, 1),
    "rnn_tanh": lambda: _recurrent(1, 1),
    "rnn_relu": lambda: _recurrent(1, 1),
    "lstm_cell": lambda: _cell(4, 2),
    "gru_cell": lambda: _cell(3, 1),
    "rnn_tanh_cell": lambda: _cell(1, 1),
    "rnn_relu_cell": lambda: _cell(1, 1),
    "embedding": lambda: {"input": torch.tensor([0, 1]), "weight": _rand(3, 4)},
    "embedding_bag": lambda: {
        "input": torch.tensor([0, 1]),
        "weight": _rand(3, 4),
        "offsets": torch.tensor([0]),
    },
    "one_hot": lambda: {"tensor": torch.tensor([0, 1])},
    "interpolate": lambda: {"input": _rand(*_MAP), "size": (4, 4)},
    "grid_sampler": lambda: {
        "input": _rand(*_MAP),
        "grid": _rand(2, 5, 5, 2),
        "interpolation_mode": 0,
        "padding_mode": 0,
        "align_corners": False,
    },
    "grid_sample": lambda: {"input": _rand(*_MAP), "grid": _rand(2, 5, 5, 2)},
    "flatten": lambda: {"input": _rand(2, 4, 6), "start_dim": 1},
    "unflatten": lambda: {"input": _rand(2, 4, 6), "dim": 1, "sizes": (2, 2)},
    "view": lambda: {"input": _rand(2, 4, 6), "size": (2, 24)},
    "view_as": lambda: {"input": _rand(2, 4, 6), "other": _rand(2, 24)},
    "reshape_as": lambda: {"input": _rand(2, 4, 6), "other": _rand(2, 24)},
    "squeeze": lambda: {"input": _rand(2, 1, 6), "dim": 1},
    "permute": lambda: {"input": _rand(2, 4, 6), "dims": (0, 2, 1)},
    "movedim": lambda: {"input": _rand(2, 4, 6), "source": 1, "destination": 2},
    **{name: lambda: {"input": _rand(2, 3)} for name in ("t", "T", "mT", "H", "mH")},
    "getitem": lambda: {"input": _rand(2, 4, 6), "index": 0},
    "select": lambda: {"input": _rand(2, 4, 6), "dim": 1, "index": 0},
    "diag": lambda: {"input": _rand(3, 3)},
    "as_strided": lambda: {"input": _rand(2, 4), "size": (2, 2), "stride": (4, 1)},
    "Tensor.unfold": lambda: {"input": _rand(2, 4, 6), "dimension": 2, "size": 3, "step": 1},
    "gather": lambda: {"input": _rand(2, 4), "dim": 1, "index": torch.tensor([[0], [1]])},
    "take_along_dim": lambda: {"input": _rand(2, 4), "indices": torch.tensor([[0], [1]]), "dim": 1},
    "dsplit": lambda: {"input": _rand(2, 4, 6), "indices_or_sections": 2},
    "unique": lambda: {"input": _whole(2, 4)},
    "unique_consecutive": lambda: {"input": _whole(2, 4)},
    "pixel_shuffle": lambda: {"input": _rand(*_MAP), "upscale_factor": 2},
    "pixel_unshuffle": lambda: {"input": _rand(*_MAP), "downscale_factor": 2},
    "channel_shuffle": lambda: {"input": _rand(*_MAP), "groups": 2},
    "flip": lambda: {"input": _rand(2, 4), "dims": (0,)},
    "expand": lambda: {"input": _rand(1, 4), "size": (2, 4)},
    "expand_as": lambda: {"input": _rand(1, 4), "other": _rand(2, 4)},
    "broadcast_to": lambda: {"input": _rand(1, 4), "size": (2, 4)},
    "repeat": lambda: {"input": _rand(1, 4), "repeats": (2, 2)},
    "tile": lambda: {"input": _rand(1, 4), "dims": (2, 2)},
    "broadcast_tensors": lambda: {"tensors": [_rand(1, 4), _rand(2, 1)]},
    "meshgrid": lambda: {"tensors": [_rand(4), _rand(3)], "indexing": "ij"},
    "pad": lambda: {"input": _rand(2, 4), "pad": (1, 1)},
    "cartesian_prod": lambda: {"tensors": [_rand(2), _rand(3)]},
    "from_numpy": lambda: {"ndarray": _rand(3).numpy()},
    "scalar_tensor": lambda: {"s": 0.5},
    "tril_indices": lambda: {"row": 3, "col": 3},
    "triu_indices": lambda: {"row": 3, "col": 3},
    "affine_grid": lambda: {"theta": _rand(2, 2, 3), "size": (2, 4, 8, 8), "align_corners": False},
    "asarray": lambda: {"obj": [0.5]},
    "linspace": lambda: {"start": 0, "end": 1, "steps": 3},
    "logspace": lambda: {"start": 0, "end": 1, "steps": 3},
    "arange": lambda: {"start": 0, "end": 3},
    "range": lambda: {"start": 0, "end": 3},
    "empty_strided": lambda: {"size": (2, 3), "stride": (3, 1)},
    "new_empty_strided": lambda: {"input": _rand(1), "size": (2, 3), "stride": (3, 1)},
    "multinomial": lambda: {"input": _rand(4), "num_samples": 2},
    "binomial": lambda: {"count": torch.full((3,), 4.0), "prob": _rand(3)},
    "setitem": lambda: {"input": _rand(2, 4), "index": 0, "value": 0.5},
    "copy": lambda: {"input": _rand(2, 4), "src": _rand(2, 4)},
    "fill_diagonal": lambda: {"input": _rand(3, 3), "fill_value": 0.5},
    "index_put": lambda: {
        "input": _rand(2, 4),
        "indices": [torch.tensor([0])],
        "values": torch.tensor(0.5),
    },
    "index_copy": lambda: {
        "input": _rand(2, 4, 6),
        "dim": 1,
        "index": torch.tensor([0, 1]),
        "source": _rand(2, 2, 6),
    },
    "masked_scatter": lambda: {
        "input": _rand(2, 4, 6),
        "mask": _BY_ARGUMENT["mask"](),
        "source": _rand(48),
    },
    **{
        name: lambda: {
            "input": _rand(2, 4),
            "dim": 1,
            "index": torch.tensor([[0], [1]]),
            "src": _rand(2, 4),
        }
        for name in ("scatter", "scatter_add")
    },
    "scatter_reduce": lambda: {
        "input": _rand(2, 4),
        "dim": 1,
        "index": torch.tensor([[0], [1]]),
        "src": _rand(2, 4),
        "reduce": "sum",
    },
    "select_scatter": lambda: {"input": _rand(2, 4), "src": _rand(2), "dim": 1, "index": 0},
    "slice_scatter": lambda: {"input": _rand(2, 4), "src": _rand(2, 4)},
    "diagonal_scatter": lambda: {"input": _rand(3, 3), "src": _rand(3)},
    "put": lambda: {
        "input": _rand(2, 4),
        "index": torch.tensor([0]),
        "source": torch.tensor([0.5]),
    },
    "resize": lambda: {"input": _rand(2, 4), "size": (2, 4)},
    "resize_as": lambda: {"input": _rand(2, 4), "other": _rand(2, 4)},
    "index_reduce": lambda: {
        "input": _rand(2, 4, 6),
        "dim": 1,
        "index": torch.tensor([0, 1]),
        "source": _rand(2, 2, 6),
        "reduce": "mean",
    },
    **{
        name: lambda: {"input": torch.tensor(1.0)}
        for name in ("item", "__bool__", "__int__", "__float__", "__complex__", "is_nonzero")
    },
    "__index__": lambda: {"input": torch.tensor(1)},
    "__contains__": lambda: {"input": _rand(3), "element": 0.5},
    "sum_to_size": lambda: {"input": _rand(2, 4), "size": (1, 4)},
    "trace": lambda: {"input": _IN_SQUARE()},
    "cov": lambda: {"input": _IN_SQUARE()},
    "corrcoef": lambda: {"input": _IN_SQUARE()},
    "bincount": lambda: {"input": _whole(4)},
    "trapezoid": lambda: {"y": _rand(2, 4)},
    "cumulative_trapezoid": lambda: {"y": _rand(2, 4)},
    "linalg.vector_norm": lambda: {"x": _rand(2, 4)},
    "logdet": lambda: {"input": _BY_ARGUMENT["A"]()},
    "pinverse": lambda: {"input": _IN_SQUARE()},
    "orgqr": lambda: {"input": _rand(3, 2), "tau": _rand(2)},
    "linalg.solve": lambda: {"A": _BY_ARGUMENT["A"](), "B": _rand(3, 1)},
    "linalg.cholesky": lambda: {"A": torch.eye(3) * 2},
    "linalg.eigh": lambda: {"A": torch.diag(torch.tensor([1.0, 2.0, 3.0]))},
    "pdist": lambda: {"input": _rand(4, 6)},
    "cross": lambda: {"input": _rand(2, 3), "other": _rand(2, 3), "dim": 1},
    "linalg.cross": lambda: {"input": _rand(2, 3), "other": _rand(2, 3)},
    "searchsorted": lambda: {"sorted_sequence": torch.tensor([0.1, 0.5]), "input": _rand(3)},
    "bucketize": lambda: {"input": _rand(3), "boundaries": torch.tensor([0.1, 0.5])},
    "cross_entropy": _classes,
    "nll_loss": _classes,
    "multi_margin_loss": _classes,
    "gaussian_nll_loss": lambda: {"input": _rand(4, 6), "target": _rand(4, 6), "var": _rand(4, 6)},
    "soft_margin_loss": _signs,
    "hinge_embedding_loss": _signs,
    "kl_div": lambda: {"input": _rand(4, 6), "target": _rand(4, 6)},
    "multilabel_margin_loss": lambda: {
        "input": _rand(2, 4),
        "target": torch.tensor([[0, 1, -1, -1], [1, -1, -1, -1]]),
    },
    "cosine_embedding_loss": lambda: {
        "input1": _rand(4, 6),
        "input2": _rand(4, 6),
        "target": torch.ones(4),
    },
    "margin_ranking_loss": lambda: {
        "input1": _rand(4),
        "input2": _rand(4),
        "target": torch.ones(4),
    },
    "ctc_loss": lambda: {
        "log_probs": _rand(5, 2, 4).log_softmax(2),
        "targets": torch.tensor([[1, 2], [1, 3]]),
        "input_lengths": torch.tensor([5, 5]),
        "target_lengths": torch.tensor([2, 2]),
    },
    "linear_cross_entropy": lambda: {
        "input": _rand(4, 6),
        "linear_weight": _rand(5, 6),
        "target": torch.tensor([0, 1, 2, 4]),
    },
}


def sample(info: OperationInfo) -> dict[str, Any]:
    """Arguments for one operation, by the names of its signature; the same at each call."""
    torch.default_generator.manual_seed(0)
    if info.name in _SAMPLES:
        return _SAMPLES[info.name]()
    required = [n for n in info.signature.names if n not in info.signature.defaults]
    return {name: _BY_ARGUMENT[name]() for name in required}


_EXTRA = {
    "training": True,
    "momentum": 0.1,
    "eps": 1e-5,
    "cudnn_enabled": False,
    "use_input_stats": True,
    "log_input": True,
    "full": False,
    "reduction": 1,
    "mode": 0,
    "padding_mode": 0,
    "align_corners": False,
    "weight": None,
    "bias": None,
    "running_mean": None,
    "running_var": None,
    "train": True,
    "p": 0.5,
}
_BATCHED = {"input": torch.full((2, 3, 4), 0.5), "mat2": torch.full((2, 4, 5), 0.25)}
_SPREAD = {
    "torch.broadcast_tensors",
    "torch.meshgrid",
    "torch.cartesian_prod",
    "torch.block_diag",
    "torch.chain_matmul",
}


def arguments(
    info: OperationInfo, spelling: Spelling, values: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments in the order of this spelling: positional as far as they go, then keywords."""
    signature = find_signature(spelling.kind)
    assert signature is not None
    names = signature.names
    known = dict(values)
    for own, canonical in zip(names, info.signature.names, strict=False):
        if own not in info.signature.names and canonical in known:
            known[own] = known.pop(canonical)  # mm(input, mat2) for matmul(input, other)
    for name in names:
        if name not in known and name not in signature.defaults and name in _EXTRA:
            known[name] = _EXTRA[name]
    if spelling.kind.endswith(".bmm"):
        known = dict(_BATCHED)
    if spelling.kind == "torch.Tensor.normal_":
        known = {"input": _rand(3), "mean": 0.0, "std": 1.0}
    given = list(itertools.takewhile(known.__contains__, names))
    args = [known.pop(name) for name in given]
    if spelling.kind in _SPREAD:
        args, known = list(args[0]), {**known, **dict(zip(given[1:], args[1:], strict=True))}
    return args, known


def call(info: OperationInfo, spelling: Spelling, values: Mapping[str, Any]) -> Any:
    """What the operation gives, so spelled; of an in-place form on a copy of the first tensor."""
    args, keywords = arguments(info, spelling, values)
    if spelling.in_place:
        args[0] = args[0].clone()
        out = spelling.call(*args, **keywords)
        return args[0] if out is None else out
    return spelling.call(*args, **keywords)
