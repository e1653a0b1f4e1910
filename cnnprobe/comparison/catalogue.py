"""The names under which one operation can be written: as a stock layer, a function or a tensor method, with which arguments where."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One operation. `arguments` are those of its function, in order; `tensors` those of them that may be parameters or buffers."""

    name: str
    family: str
    layers: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()  # last part of the name, without a trailing underscore
    arguments: tuple[str, ...] = ("input",)
    tensors: tuple[str, ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)
    commutes: bool = False


_ELEMENTWISE = {
    "relu": "ReLU", "relu6": "ReLU6", "sigmoid": "Sigmoid", "tanh": "Tanh", "silu": "SiLU", "mish": "Mish", "selu": "SELU",
    "hardswish": "Hardswish", "hardsigmoid": "Hardsigmoid", "softsign": "Softsign", "logsigmoid": "LogSigmoid", "tanhshrink": "Tanhshrink",
}  # fmt: skip
_CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"}
_POOLING = ("kernel_size", "stride", "padding")


def _entries() -> list[Entry]:
    found = [
        Entry(
            name="linear",
            family="linear",
            layers=("Linear", "NonDynamicallyQuantizableLinear"),
            functions=("linear",),
            arguments=("input", "weight", "bias"),
            tensors=("weight", "bias"),
        ),
        Entry(name="flatten", family="reshape", layers=("Flatten",), functions=("flatten", "view", "reshape", "unflatten", "view_as", "reshape_as"),
              arguments=("input", "start_dim", "end_dim"), defaults={"start_dim": 0, "end_dim": -1}),
        Entry(name="dropout", family="dropout", layers=("Dropout",), functions=("dropout",), arguments=("input", "p", "training", "inplace"),
              defaults={"p": 0.5, "training": True}),
        Entry(name="dropout2d", family="dropout", layers=("Dropout2d",), functions=("dropout2d", "feature_dropout"),
              arguments=("input", "p", "training", "inplace"), defaults={"p": 0.5, "training": True}),
        Entry(name="leaky_relu", family="activation", layers=("LeakyReLU",), functions=("leaky_relu",),
              arguments=("input", "negative_slope", "inplace"), defaults={"negative_slope": 0.01}),
        Entry(name="elu", family="activation", layers=("ELU",), functions=("elu",), arguments=("input", "alpha", "inplace"), defaults={"alpha": 1.0}),
        Entry(name="gelu", family="activation", layers=("GELU",), functions=("gelu",), arguments=("input", "approximate"), defaults={"approximate": "none"}),
        Entry(name="hardtanh", family="activation", layers=("Hardtanh",), functions=("hardtanh",), arguments=("input", "min_val", "max_val", "inplace"),
              defaults={"min_val": -1.0, "max_val": 1.0}),
        Entry(name="prelu", family="activation", layers=("PReLU",), functions=("prelu",), arguments=("input", "weight"), tensors=("weight",)),
        Entry(name="softmax", family="softmax", layers=("Softmax",), functions=("softmax",), arguments=("input", "dim", "dtype")),
        Entry(name="log_softmax", family="softmax", layers=("LogSoftmax",), functions=("log_softmax",), arguments=("input", "dim", "dtype")),
        Entry(name="layer_norm", family="norm", layers=("LayerNorm",), functions=("layer_norm",),
              arguments=("input", "normalized_shape", "weight", "bias", "eps"), tensors=("weight", "bias"), defaults={"eps": 1e-5}),
        Entry(name="group_norm", family="norm", layers=("GroupNorm",), functions=("group_norm",),
              arguments=("input", "num_groups", "weight", "bias", "eps"), tensors=("weight", "bias"), defaults={"eps": 1e-5}),
        Entry(name="batch_norm", family="norm", layers=("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), functions=("batch_norm",),
              arguments=("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
              tensors=("running_mean", "running_var", "weight", "bias"), defaults={"training": False, "momentum": 0.1, "eps": 1e-5}),
        Entry(name="embedding", family="embedding", layers=("Embedding",), functions=("embedding",),
              arguments=("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"), tensors=("weight",),
              defaults={"padding_idx": None, "max_norm": None, "norm_type": 2.0, "scale_grad_by_freq": False, "sparse": False}),
        Entry(name="interpolate", family="resize", layers=("Upsample",), functions=("interpolate", "upsample"),
              arguments=("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"),
              defaults={"size": None, "mode": "nearest", "align_corners": None, "recompute_scale_factor": None, "antialias": False}),
        Entry(name="pad", family="pad", layers=("ZeroPad2d", "ConstantPad2d"), functions=("pad",), arguments=("input", "padding", "mode", "value"),
              defaults={"mode": "constant", "value": 0}),
        Entry(name="cat", family="join", functions=("cat", "concat", "concatenate"), arguments=("tensors", "dim"), defaults={"dim": 0}),
        Entry(name="add", family="join", functions=("add", "__add__", "__radd__", "__iadd__"), arguments=("input", "other"), defaults={"alpha": 1}, commutes=True),
        Entry(name="mul", family="join", functions=("mul", "multiply", "__mul__", "__rmul__", "__imul__"), arguments=("input", "other"), commutes=True),
        Entry(name="sub", family="join", functions=("sub", "subtract", "__sub__", "__isub__"), arguments=("input", "other"), defaults={"alpha": 1}),
        Entry(name="div", family="join", functions=("div", "divide", "true_divide", "__truediv__"), arguments=("input", "other"), defaults={"rounding_mode": None}),
        Entry(name="matmul", family="matmul", functions=("matmul", "mm", "bmm", "__matmul__"), arguments=("input", "other")),
        Entry(name="mean", family="pooling", functions=("mean",), arguments=("input", "dim", "keepdim"), defaults={"keepdim": False, "dtype": None}),
        Entry(name="permute", family="permute", functions=("permute",), arguments=("input", "dims")),
        Entry(name="transpose", family="permute", functions=("transpose", "swapaxes", "swapdims"), arguments=("input", "dim0", "dim1")),
        Entry(name="identity", family="identity", layers=("Identity",), functions=("contiguous", "clone", "alias")),
    ]  # fmt: skip
    found += [
        Entry(
            name=name,
            family="activation",
            layers=(layer,),
            functions=(name,),
            arguments=("input", "inplace"),
        )
        for name, layer in _ELEMENTWISE.items()
    ]
    for n in (1, 2, 3):
        found += _of_dimension(n)
    return found


def _of_dimension(n: int) -> list[Entry]:
    """Convolution and pooling over `n` dimensions."""
    convolution = ("input", "weight", "bias", "stride", "padding")
    average = {
        "stride": None,
        "padding": 0,
        "ceil_mode": False,
        "count_include_pad": True,
        "divisor_override": None,
    }
    return [
        Entry(name=f"conv{n}d", family="convolution", layers=(f"Conv{n}d",), functions=(f"conv{n}d",),
              arguments=(*convolution, "dilation", "groups"), tensors=("weight", "bias"), defaults=_CONVOLUTION),
        Entry(name=f"conv_transpose{n}d", family="convolution", layers=(f"ConvTranspose{n}d",), functions=(f"conv_transpose{n}d",),
              arguments=(*convolution, "output_padding", "groups", "dilation"), tensors=("weight", "bias"), defaults={**_CONVOLUTION, "output_padding": 0}),
        Entry(name=f"max_pool{n}d", family="pooling", layers=(f"MaxPool{n}d",), functions=(f"max_pool{n}d",),
              arguments=("input", *_POOLING, "dilation", "ceil_mode", "return_indices"),
              defaults={"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}),
        Entry(name=f"avg_pool{n}d", family="pooling", layers=(f"AvgPool{n}d",), functions=(f"avg_pool{n}d",),
              arguments=("input", *_POOLING, "ceil_mode", "count_include_pad", "divisor_override"), defaults=average),
        Entry(name=f"adaptive_avg_pool{n}d", family="pooling", layers=(f"AdaptiveAvgPool{n}d",), functions=(f"adaptive_avg_pool{n}d",),
              arguments=("input", "output_size")),
        Entry(name=f"adaptive_max_pool{n}d", family="pooling", layers=(f"AdaptiveMaxPool{n}d",), functions=(f"adaptive_max_pool{n}d",),
              arguments=("input", "output_size", "return_indices"), defaults={"return_indices": False}),
    ]  # fmt: skip


ENTRIES = tuple(_entries())
BY_NAME: Mapping[str, Entry] = {entry.name: entry for entry in ENTRIES}
BY_LAYER: Mapping[str, Entry] = {layer: entry for entry in ENTRIES for layer in entry.layers}
BY_FUNCTION: Mapping[str, Entry] = {
    function: entry for entry in ENTRIES for function in entry.functions
}


def family_of(name: str) -> str:
    """The family of an operation: what can stand in its place and be its faulty copy."""
    entry = BY_NAME.get(name)
    return entry.family if entry is not None else name
