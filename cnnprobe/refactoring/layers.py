"""An operation as the stock layer that a person would write for it: class and constructor arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cnnprobe.differences import Operation, place
from cnnprobe.errors import ProbeError


class NotWritableError(ProbeError):
    """The model cannot be written out as layers and blocks; `what` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """`nn.<kind>(**arguments)`, all arguments given, defaults too; `operation` is the one that it stands for."""

    kind: str
    arguments: Mapping[str, object]
    operation: int


# Arguments that may vary within a repeated block; any other one that differs makes it another block.
VARYING = frozenset(
    {
        "in_channels",
        "out_channels",
        "in_features",
        "out_features",
        "num_features",
        "num_channels",
        "kernel_size",
        "stride",
        "padding",
        "groups",
    }
)
DEFAULTS: Mapping[str, object] = {
    "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": True, "padding_mode": "zeros", "eps": 1e-5, "momentum": 0.1, "affine": True,
    "track_running_stats": True, "output_padding": 0, "ceil_mode": False, "return_indices": False, "count_include_pad": True,
    "divisor_override": None, "approximate": "none", "start_dim": 1, "end_dim": -1, "mode": "nearest", "align_corners": None,
    "negative_slope": 0.01, "alpha": 1.0, "min_val": -1.0, "max_val": 1.0, "num_parameters": 1, "elementwise_affine": True,
}  # fmt: skip
POSITIONAL = frozenset(
    {
        "in_channels",
        "out_channels",
        "in_features",
        "out_features",
        "num_features",
        "num_groups",
        "num_channels",
        "p",
        "output_size",
        "normalized_shape",
    }
)
_PLAIN = {
    "relu": "ReLU", "relu6": "ReLU6", "sigmoid": "Sigmoid", "tanh": "Tanh", "silu": "SiLU", "mish": "Mish", "selu": "SELU", "hardswish": "Hardswish",
    "hardsigmoid": "Hardsigmoid", "softsign": "Softsign", "logsigmoid": "LogSigmoid", "tanhshrink": "Tanhshrink",
}  # fmt: skip
_CONFIGURED = {
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "hardtanh": "Hardtanh",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
}


def layer_of(operation: Operation, index: int) -> Layer:
    """The layer that does what the operation did.

    Raises:
        NotWritableError: no stock layer does that.
    """
    for prefix, make in _MAKERS.items():
        if operation.name.startswith(prefix):
            kind, arguments = make(operation)
            return Layer(kind=kind, arguments=arguments, operation=index)
    if operation.name in _PLAIN:
        return Layer(kind=_PLAIN[operation.name], arguments={}, operation=index)
    if operation.name in _CONFIGURED:
        return Layer(
            kind=_CONFIGURED[operation.name], arguments=dict(operation.config), operation=index
        )
    raise NotWritableError(
        f"{operation.kind} cannot be written as a layer",
        where=place(operation),
        fix="refactor the parts around it, as models of their own",
    )


Made = tuple[str, dict[str, object]]


def _convolution(op: Operation) -> Made:
    weight, groups = op.shapes.get("weight"), op.config.get("groups", 1)
    if weight is None or not isinstance(groups, int):
        raise NotWritableError(
            "a convolution whose weight is computed cannot be written as a layer", where=place(op)
        )
    transposed = "transpose" in op.name
    first, second = (
        (weight[0], weight[1] * groups) if transposed else (weight[1] * groups, weight[0])
    )
    kind = f"ConvTranspose{op.name[-2]}d" if transposed else f"Conv{op.name[-2]}d"
    config = {key: value for key, value in op.config.items() if key != "kernel_size"}
    return kind, {
        "in_channels": first,
        "out_channels": second,
        "kernel_size": op.config["kernel_size"],
        **{
            key: config[key]
            for key in ("stride", "padding", "output_padding", "dilation", "groups")
            if key in config
        },
        "bias": "bias" in op.shapes,
        "padding_mode": config.get("padding_mode", "zeros"),
    }


def _linear(op: Operation) -> Made:
    weight = op.shapes.get("weight")
    if weight is None:
        raise NotWritableError(
            "a linear layer whose weight is computed cannot be written as a layer", where=place(op)
        )
    return "Linear", {
        "in_features": weight[1],
        "out_features": weight[0],
        "bias": "bias" in op.shapes,
    }


def _batch_norm(op: Operation) -> Made:
    rank = len(op.given[0]) if op.given else 4
    kind = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}.get(
        rank, "BatchNorm2d"
    )
    features = op.shapes.get("weight") or op.shapes.get("running_mean") or (op.given[0][1],)
    return kind, {
        "num_features": features[0],
        "eps": op.config.get("eps"),
        "momentum": op.config.get("momentum"),
        "affine": "weight" in op.shapes,
        "track_running_stats": "running_mean" in op.shapes,
    }


def _group_norm(op: Operation) -> Made:
    return "GroupNorm", {
        "num_groups": op.config.get("num_groups"),
        "num_channels": op.given[0][1],
        "eps": op.config.get("eps"),
        "affine": "weight" in op.shapes,
    }


def _layer_norm(op: Operation) -> Made:
    weight = op.shapes.get("weight")
    if weight is None:
        raise NotWritableError(
            "a layer_norm without weights does not show its shape", where=place(op)
        )
    return "LayerNorm", {
        "normalized_shape": weight[0] if len(weight) == 1 else weight,
        "eps": op.config.get("eps"),
        "elementwise_affine": True,
        "bias": "bias" in op.shapes,
    }


def _pooling(op: Operation) -> Made:
    kind = "".join(part.capitalize() for part in op.name[:-2].split("_")) + op.name[-2:]
    if op.config.get("return_indices"):
        raise NotWritableError(
            "pooling that also gives back indices cannot stand in a chain", where=place(op)
        )
    config = {key: value for key, value in op.config.items() if key != "return_indices"}
    if "kernel_size" in config:
        config = {"kernel_size": config.pop("kernel_size"), **config}
    return kind, config


def _dropout(op: Operation) -> Made:
    if op.config.get("training"):
        raise NotWritableError(
            "a dropout that acts in eval mode too is no nn.Dropout",
            where=place(op),
            fix="pass training=self.training",
        )
    return ("Dropout2d" if op.name == "dropout2d" else "Dropout"), {"p": op.config.get("p")}


def _flatten(op: Operation) -> Made:
    start, end = op.config.get("start_dim"), op.config.get("end_dim")
    return "Flatten", {"start_dim": start, "end_dim": -1 if end == len(op.given[0]) - 1 else end}


def _prelu(op: Operation) -> Made:
    return "PReLU", {"num_parameters": op.shapes.get("weight", (1,))[0]}


def _interpolate(op: Operation) -> Made:
    return "Upsample", {
        "size": op.config.get("size"),
        "mode": op.config.get("mode"),
        "align_corners": op.config.get("align_corners"),
    }


_MAKERS: Mapping[str, Callable[[Operation], Made]] = {
    "conv": _convolution,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "max_pool": _pooling,
    "avg_pool": _pooling,
    "adaptive_": _pooling,
    "dropout": _dropout,
    "flatten": _flatten,
    "prelu": _prelu,
    "interpolate": _interpolate,
}
