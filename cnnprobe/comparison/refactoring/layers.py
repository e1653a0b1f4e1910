"""An operation as the stock layer that a person would write for it: class and constructor
arguments.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cnnprobe.errors import ProbeError
from cnnprobe.operations import OperationInfo, find_layer, find_name
from cnnprobe.records.differences import Operation, describe_place


class NotWritableError(ProbeError):
    """The model cannot be written out as layers and blocks; `what` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """`nn.<kind>(**arguments)`, all arguments given, defaults too; `operation` is the one that it
    stands for.
    """

    kind: str
    arguments: Mapping[str, object]
    operation: int


# Arguments that may vary within a repeated block; any other one that differs makes it another
# block.
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
ALWAYS = ...  # no default: it is always written
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


def find_default(kind: str, argument: str) -> object:
    """What a layer takes where an argument is left out; ALWAYS where that is not done.

    >>> find_default("Conv2d", "stride"), find_default("Dropout", "p")
    (1, Ellipsis)
    """
    info = find_layer(kind)
    if info is None or info.constructor is None or argument in POSITIONAL:
        return ALWAYS
    return info.constructor.defaults.get(argument, ALWAYS)


def make_layer(operation: Operation, index: int) -> Layer:
    """The layer that does what the operation did.

    Raises:
        NotWritableError: no stock layer does that.
    """
    info = find_name(operation.name)
    make = _find_maker(info) if info is not None and info.layers else None
    if info is not None and make is not None:
        kind, arguments = make(operation, info.layers[0])
        return Layer(kind=kind, arguments=arguments, operation=index)
    raise NotWritableError(
        f"{operation.kind} cannot be written as a layer",
        where=describe_place(operation),
        fix="refactor the parts around it as separate models",
    )


Made = tuple[str, dict[str, object]]
Maker = Callable[[Operation, str], Made]  # gets the class of the layer, too


def _find_maker(info: OperationInfo) -> Maker | None:
    """What writes the layer of an operation; None where nothing does."""
    if info.group in _MAKERS:
        return _MAKERS[info.group]
    is_simple = info.family in ("activation", "softmax") and "training" not in info.signature.names
    return _make_activation if is_simple else None


def _make_activation(op: Operation, kind: str) -> Made:
    info = find_layer(kind)
    names = info.constructor.names if info is not None and info.constructor is not None else ()
    return kind, {name: op.config[name] for name in names if name in op.config}


def _make_convolution(op: Operation, kind: str) -> Made:
    weight, groups = op.shapes.get("weight"), op.config.get("groups", 1)
    if weight is None or not isinstance(groups, int):
        raise NotWritableError(
            "a convolution whose weight is computed cannot be written as a layer",
            where=describe_place(op),
        )
    transposed = "transpose" in op.name
    first, second = (
        (weight[0], weight[1] * groups) if transposed else (weight[1] * groups, weight[0])
    )
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


def _make_linear(op: Operation, kind: str) -> Made:
    weight = op.shapes.get("weight")
    if weight is None:
        raise NotWritableError(
            "a linear layer whose weight is computed cannot be written as a layer",
            where=describe_place(op),
        )
    return kind, {
        "in_features": weight[1],
        "out_features": weight[0],
        "bias": "bias" in op.shapes,
    }


def _make_batch_norm(op: Operation, kind: str) -> Made:
    rank = len(op.given[0]) if op.given else 4
    kind = {2: "BatchNorm1d", 3: "BatchNorm1d", 5: "BatchNorm3d"}.get(rank, "BatchNorm2d")
    features = op.shapes.get("weight") or op.shapes.get("running_mean") or (op.given[0][1],)
    return kind, {
        "num_features": features[0],
        "eps": op.config.get("eps"),
        "momentum": op.config.get("momentum"),
        "affine": "weight" in op.shapes,
        "track_running_stats": "running_mean" in op.shapes,
    }


def _make_group_norm(op: Operation, kind: str) -> Made:
    return kind, {
        "num_groups": op.config.get("num_groups"),
        "num_channels": op.given[0][1],
        "eps": op.config.get("eps"),
        "affine": "weight" in op.shapes,
    }


def _make_layer_norm(op: Operation, kind: str) -> Made:
    weight = op.shapes.get("weight")
    if weight is None:
        raise NotWritableError(
            "a layer_norm without weights does not show its shape", where=describe_place(op)
        )
    made: dict[str, object] = {
        "normalized_shape": weight[0] if len(weight) == 1 else weight,
        "eps": op.config.get("eps"),
        "elementwise_affine": True,
    }
    return kind, made if kind == "RMSNorm" else {**made, "bias": "bias" in op.shapes}


def _make_pooling(op: Operation, kind: str) -> Made:
    if op.config.get("return_indices"):
        raise NotWritableError(
            "pooling that also returns indices cannot be part of a chain", where=describe_place(op)
        )
    config = {key: value for key, value in op.config.items() if key != "return_indices"}
    if "kernel_size" in config:
        config = {"kernel_size": config.pop("kernel_size"), **config}
    return kind, config


def _make_dropout(op: Operation, kind: str) -> Made:
    if op.config.get("training"):
        raise NotWritableError(
            f"a dropout that is also active in eval mode is not nn.{kind}",
            where=describe_place(op),
            fix="pass training=self.training",
        )
    return kind, {"p": op.config.get("p")}


def _make_flatten(op: Operation, kind: str) -> Made:
    start, end = op.config.get("start_dim"), op.config.get("end_dim")
    return kind, {"start_dim": start, "end_dim": -1 if end == len(op.given[0]) - 1 else end}


def _make_prelu(op: Operation, kind: str) -> Made:
    return kind, {"num_parameters": op.shapes.get("weight", (1,))[0]}


def _make_interpolate(op: Operation, kind: str) -> Made:
    return kind, {
        "size": op.config.get("size"),
        "mode": op.config.get("mode"),
        "align_corners": op.config.get("align_corners"),
    }


_MAKERS: Mapping[str, Maker] = {
    "conv": _make_convolution,
    "conv_transpose": _make_convolution,
    "linear": _make_linear,
    "batch_norm": _make_batch_norm,
    "group_norm": _make_group_norm,
    "layer_norm": _make_layer_norm,
    "max_pool": _make_pooling,
    "avg_pool": _make_pooling,
    "dropout": _make_dropout,
    "flatten": _make_flatten,
    "prelu": _make_prelu,
    "interpolate": _make_interpolate,
}
