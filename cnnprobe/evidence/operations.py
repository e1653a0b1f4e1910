"""What a row does, whichever way it was written: nn.ReLU, F.relu, torch.relu and x.relu_() are all "relu"."""

from functools import lru_cache

from cnnprobe.trace import ModuleCall, ModuleInfo, Trace

_MODULES = {
    "Conv1d": "conv", "Conv2d": "conv", "Conv3d": "conv", "LazyConv1d": "conv", "LazyConv2d": "conv", "LazyConv3d": "conv",
    "ConvTranspose1d": "conv_transpose", "ConvTranspose2d": "conv_transpose", "ConvTranspose3d": "conv_transpose",
    "Linear": "linear", "LazyLinear": "linear", "Bilinear": "bilinear", "NonDynamicallyQuantizableLinear": "linear",
    "BatchNorm1d": "batch_norm", "BatchNorm2d": "batch_norm", "BatchNorm3d": "batch_norm", "SyncBatchNorm": "batch_norm",
    "LazyBatchNorm1d": "batch_norm", "LazyBatchNorm2d": "batch_norm", "LazyBatchNorm3d": "batch_norm",
    "InstanceNorm1d": "instance_norm", "InstanceNorm2d": "instance_norm", "InstanceNorm3d": "instance_norm",
    "LayerNorm": "layer_norm", "GroupNorm": "group_norm", "RMSNorm": "layer_norm",
    "Dropout": "dropout", "Dropout1d": "dropout", "Dropout2d": "dropout", "Dropout3d": "dropout", "AlphaDropout": "dropout", "FeatureAlphaDropout": "dropout",
    "Softmax": "softmax", "Softmax2d": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "LogSigmoid": "logsigmoid", "Tanh": "tanh",
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "PReLU": "prelu", "ELU": "elu", "SELU": "selu", "CELU": "celu", "GELU": "gelu",
    "SiLU": "silu", "Mish": "mish", "Softplus": "softplus", "Softsign": "softsign", "Tanhshrink": "tanhshrink", "Hardtanh": "hardtanh",
    "Hardswish": "hardswish", "Hardsigmoid": "hardsigmoid", "Threshold": "threshold", "GLU": "glu", "RReLU": "rrelu",
    "MaxPool1d": "max_pool", "MaxPool2d": "max_pool", "MaxPool3d": "max_pool", "AdaptiveMaxPool2d": "max_pool",
    "AvgPool1d": "avg_pool", "AvgPool2d": "avg_pool", "AvgPool3d": "avg_pool", "AdaptiveAvgPool1d": "avg_pool", "AdaptiveAvgPool2d": "avg_pool",
    "AdaptiveAvgPool3d": "avg_pool", "Flatten": "flatten", "Unflatten": "unflatten", "Identity": "identity", "Embedding": "embedding",
    "LSTM": "rnn", "GRU": "rnn", "RNN": "rnn", "LSTMCell": "rnn", "GRUCell": "rnn", "RNNCell": "rnn", "MultiheadAttention": "attention",
    "CrossEntropyLoss": "cross_entropy", "NLLLoss": "nll_loss", "BCELoss": "binary_cross_entropy", "MSELoss": "mse_loss", "L1Loss": "l1_loss",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits", "SmoothL1Loss": "smooth_l1_loss", "HuberLoss": "huber_loss", "KLDivLoss": "kl_div",
}  # fmt: skip
_FUNCTIONS = {
    "conv1d": "conv", "conv2d": "conv", "conv3d": "conv", "conv_transpose1d": "conv_transpose", "conv_transpose2d": "conv_transpose",
    "conv_transpose3d": "conv_transpose", "dropout1d": "dropout", "dropout2d": "dropout", "dropout3d": "dropout", "feature_dropout": "dropout",
    "alpha_dropout": "dropout", "feature_alpha_dropout": "dropout", "max_pool1d": "max_pool", "max_pool2d": "max_pool", "max_pool3d": "max_pool",
    "avg_pool1d": "avg_pool", "avg_pool2d": "avg_pool", "avg_pool3d": "avg_pool", "adaptive_avg_pool1d": "avg_pool",
    "adaptive_avg_pool2d": "avg_pool", "adaptive_avg_pool3d": "avg_pool", "__add__": "add", "__radd__": "add", "__iadd__": "add",
    "__sub__": "sub", "__isub__": "sub", "subtract": "sub", "rsub": "rsub", "__rsub__": "rsub", "__mul__": "mul", "__rmul__": "mul", "__imul__": "mul",
    "multiply": "mul", "__truediv__": "div", "__div__": "div", "__itruediv__": "div", "divide": "div", "__neg__": "neg", "negative": "neg", "__getitem__": "getitem",
    "__setitem__": "setitem", "__matmul__": "matmul", "mm": "matmul", "bmm": "matmul", "concat": "cat", "concatenate": "cat", "hstack": "cat",
    "__pow__": "pow", "square": "pow", "clamp_min": "clamp", "clip": "clamp", "swapaxes": "transpose", "swapdims": "transpose", "t": "transpose", "T": "transpose", "mT": "transpose", "movedim": "permute",
    "rnn_tanh": "rnn", "lstm": "rnn", "gru": "rnn", "rnn_relu": "rnn", "absolute": "abs",
    "special_expit": "sigmoid", "expit": "sigmoid", "get": "getitem",
}  # fmt: skip

# Values go through as they are; only their arrangement, dtype, place or number changes.
ARRANGING = frozenset(
    [
        "flatten",
        "unflatten",
        "view",
        "reshape",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "identity",
        "permute",
        "transpose",
        "to",
        "float",
        "double",
        "half",
        "bfloat16",
        "clone",
        "view_as",
        "reshape_as",
        "getitem",
        "type_as",
        "alias",
        "cpu",
        "cuda",
        "expand",
        "narrow",
        "select",
        "unbind",
        "chunk",
        "split",
        "requires_grad_",
        "index_select",
    ]
)
FORWARDING = ARRANGING | {"dropout"}
RECTIFIERS = frozenset({"relu", "relu6", "threshold"})
SQUASHING = frozenset({"sigmoid", "tanh", "hardsigmoid", "hardtanh", "softsign"})
NONLINEAR = RECTIFIERS | SQUASHING | frozenset(
    ["leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "tanhshrink", "hardswish", "glu", "rrelu", "softmax", "log_softmax", "logsigmoid", "max_pool"]
)  # fmt: skip
PROJECTIONS = frozenset({"linear", "conv", "conv_transpose"})
NORMALISING = frozenset(
    {"batch_norm", "layer_norm", "group_norm", "instance_norm", "local_response_norm", "normalize"}
)
LOSSES = frozenset({
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div",
})  # fmt: skip


@lru_cache(maxsize=4096)
def _named(kind: str, is_function: bool) -> str:
    if not is_function:
        return _MODULES.get(kind, kind)
    name = kind.rsplit(".", maxsplit=1)[-1]
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    plain = name.rstrip("_") if not name.startswith("__") else name
    return _FUNCTIONS.get(plain, plain)


def operation(call: ModuleCall) -> str:
    """The operation of a row: "relu", "conv", "cross_entropy"; the class name of a module that is not torch's.

    >>> operation(ModuleCall(fqn=None, kind="torch.Tensor.relu_", index=0, parent=None, depth=0))
    'relu'
    """
    return _named(call.kind, call.fqn is None)


def operation_of_module(module: ModuleInfo) -> str:
    """The operation of a registered module."""
    return _named(module.kind, False)


def argument(call: ModuleCall, name: str, position: int, default: object = None) -> object:
    """An argument of a function's row that is no tensor, by its name or its position."""
    for key in (name, f"[{position}]"):
        if key in call.arguments:
            return call.arguments[key]
    return default


def option(
    trace: Trace, call: ModuleCall, name: str, position: int, default: object = None
) -> object:
    """A setting of a row: the module's attribute, or the function's argument."""
    if call.fqn is None:
        return argument(call, name, position, default)
    return trace.module(call.fqn).config.get(name, default)


def is_inplace(trace: Trace, call: ModuleCall) -> bool:
    """Whether the row writes to its first input."""
    if call.fqn is not None:
        return (
            bool(trace.module(call.fqn).config.get("inplace"))
            if operation(call) != call.kind
            else False
        )
    name = call.kind.rsplit(".", maxsplit=1)[-1]
    if name.endswith("_") and not name.endswith("__"):
        return True
    return name == "__setitem__" or name.startswith("__i") or call.arguments.get("inplace") is True
