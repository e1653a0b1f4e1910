"""Operations that are layers: activations, norms, dropout, windows, products, embeddings."""

from collections.abc import Iterator

from cnnprobe.operations.info import OperationInfo, define, define_rows

_ACTIVATIONS = """
relu | ReLU | input, inplace=False | rectifies
relu6 | ReLU6 | input, inplace=False | rectifies
silu | SiLU | input, inplace=False
mish | Mish | input, inplace=False
selu | SELU | input, inplace=False
hardswish | Hardswish | input, inplace=False
hardsigmoid | Hardsigmoid | input, inplace=False | saturates
sigmoid expit | Sigmoid | input | saturates
tanh | Tanh | input | saturates
softsign | Softsign | input | saturates
logsigmoid log_sigmoid | LogSigmoid
tanhshrink | Tanhshrink
leaky_relu | LeakyReLU | input, negative_slope=0.01, inplace=False
elu | ELU | input, alpha=1.0, inplace=False
celu | CELU | input, alpha=1.0, inplace=False
gelu | GELU | input, approximate='none'
hardtanh | Hardtanh | input, min_val=-1.0, max_val=1.0, inplace=False | saturates
hardshrink | Hardshrink | input, lambd=0.5
softshrink | Softshrink | input, lambd=0.5
softplus | Softplus | input, beta=1.0, threshold=20.0
threshold _threshold | Threshold | input, threshold, value, inplace=False | rectifies
rrelu | RReLU | \
    input, lower=0.125, upper=0.3333333333333333, training=False, inplace=False | random
"""
_DROPPING = "input, p=0.5, training=True, inplace=False"
_DROPPING_ALPHA = "input, p=0.5, training=False, inplace=False"
_DROPOUTS = f"""
dropout | Dropout | {_DROPPING}
dropout1d | Dropout1d | {_DROPPING}
dropout2d feature_dropout | Dropout2d | {_DROPPING}
dropout3d | Dropout3d | {_DROPPING}
alpha_dropout | AlphaDropout | {_DROPPING_ALPHA}
feature_alpha_dropout | FeatureAlphaDropout | {_DROPPING_ALPHA}
"""
_DROPPING_IN_TORCH = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
_SOFTMAX = "input, dim=None, _stacklevel=3, dtype=None"
_SOFTMAX_IN_TORCH = "input, dim, dtype=None"  # of torch, torch.Tensor and torch.special

_CONVOLUTION = "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1"
_CONVOLUTION_LAYER = """in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, \
groups=1, bias=True, padding_mode='zeros'"""
_TRANSPOSED = """input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, \
dilation=1"""
_TRANSPOSED_LAYER = """in_channels, out_channels, kernel_size, stride=1, padding=0, \
output_padding=0, groups=1, bias=True, dilation=1, padding_mode='zeros'"""
_MAXIMA = """input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, \
return_indices=False"""
_MAXIMA_LAYER = """kernel_size, stride=None, padding=0, dilation=1, return_indices=False, \
ceil_mode=False"""
_MEANS = "kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True"
_OTHER_WINDOWS = """
conv_tbc | | input, weight, bias, pad=0 | one-dtype
convolution | | input, weight, bias, stride, padding, dilation, transposed, output_padding, \
    groups | product one-dtype | conv
unfold functional.unfold | Unfold | input, kernel_size, dilation=1, padding=0, stride=1
fold | Fold | input, output_size, kernel_size, dilation=1, padding=0, stride=1
"""

_PRODUCTS = """
matmul mm bmm linalg.matmul __matmul__ | | input, other
addmm | | input, mat1, mat2, beta=1, alpha=1
addbmm | | input, batch1, batch2, beta=1, alpha=1
baddbmm | | input, batch1, batch2, beta=1, alpha=1
addmv | | input, mat, vec, beta=1, alpha=1
mv | | input, vec
dot | | input, tensor
vdot | | input, other
inner | | input, other
tensordot | | a, b, dims=2, out=None
einsum | | equation, operands
chain_matmul linalg.multi_dot | | matrices | sequence
"""
_OUTER_PRODUCTS = """
outer ger | | input, vec2
addr | | input, vec1, vec2, beta=1, alpha=1
kron | | input, other
"""
_ATTENTION = """
scaled_dot_product_attention | | query, key, value, attn_mask=None, dropout_p=0.0, \
    is_causal=False, scale=None, enable_gqa=False
multi_head_attention_forward | MultiheadAttention | query, key, value, embed_dim_to_check, \
    num_heads, in_proj_weight, in_proj_bias, bias_k, bias_v, add_zero_attn, dropout_p, \
    out_proj_weight, out_proj_bias, training=True, key_padding_mask=None, need_weights=True, \
    attn_mask=None, use_separate_proj_weight=False, q_proj_weight=None, k_proj_weight=None, \
    v_proj_weight=None, static_k=None, static_v=None, average_attn_weights=True, \
    is_causal=False | | attention
"""
_ATTENTION_LAYER = """embed_dim, num_heads, dropout=0.0, bias=True, add_bias_kv=False, \
add_zero_attn=False, kdim=None, vdim=None, batch_first=False"""
_LOOKING = "padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False"
_SCALING = "size=None, scale_factor=None"


def list_operations() -> tuple[OperationInfo, ...]:
    """All of them."""
    product = "product one-dtype"
    return (
        *define_rows(_ACTIVATIONS, "activation", "elementwise"),
        *_further_activations(),
        *_norms(),
        *define_rows(
            _DROPOUTS,
            "dropout",
            "elementwise",
            traits="random",
            group="dropout",
            variants={f"torch.{name}": "input, p, training" for name in _DROPPING_IN_TORCH},
        ),
        *(info for n in (1, 2, 3) for kind in (_convolutions, _poolings) for info in kind(n)),
        *define_rows(_OTHER_WINDOWS, "convolution", "windows"),
        *define_rows(_PRODUCTS, "matmul", "products", traits=product),
        *define_rows(_OUTER_PRODUCTS, "matmul", "products"),
        *_further_products(),
        *define_rows(_ATTENTION, "attention", "products", traits=product, built=_ATTENTION_LAYER),
        *_recurrences(),
        *_lookups(),
        *_resizings(),
    )


def _further_activations() -> Iterator[OperationInfo]:
    yield define(
        "prelu", "activation", "broadcasts", "input, weight", layers="PReLU", traits="one-dtype",
        built="num_parameters=1, init=0.25",
    )  # fmt: skip
    yield define("glu", "activation", "reduces", "input, dim=-1", layers="GLU", built="dim=-1")
    for name, layer in (("softmax", "Softmax"), ("log_softmax", "LogSoftmax")):
        places = ("torch", "torch.Tensor", "torch.special")
        yield define(
            name, "softmax", "scans", _SOFTMAX, layers=layer, built="dim=None",
            variants={f"{place}.{name}": _SOFTMAX_IN_TORCH for place in places},
        )  # fmt: skip
    yield define("softmin", "softmax", "scans", _SOFTMAX, layers="Softmin", built="dim=None")
    yield define("-softmax2d", "softmax", "elementwise", layers="Softmax2d", group="softmax")
    yield define(
        "gumbel_softmax", "softmax", "scans", "logits, tau=1, hard=False, eps=1e-10, dim=-1",
        traits="random",
    )  # fmt: skip


def _norms() -> Iterator[OperationInfo]:
    given = "input, weight, bias, running_mean, running_var"
    built = "num_features, eps=1e-05, momentum=0.1"
    yield define(
        "batch_norm", "norm", "elementwise",
        "input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, "
        "eps=1e-05",
        layers="BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm LazyBatchNorm1d LazyBatchNorm2d "
        "LazyBatchNorm3d",
        built=f"{built}, affine=True, track_running_stats=True, bias=True", traits="one-dtype",
        variants={"torch.batch_norm": f"{given}, training, momentum, eps, cudnn_enabled"},
    )  # fmt: skip
    yield define(
        "instance_norm", "norm", "scans",
        "input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, "
        "momentum=0.1, eps=1e-05",
        layers="InstanceNorm1d InstanceNorm2d InstanceNorm3d LazyInstanceNorm1d "
        "LazyInstanceNorm2d LazyInstanceNorm3d",
        built=f"{built}, affine=False, track_running_stats=False, bias=True", traits="one-dtype",
        variants={"torch.instance_norm": f"{given}, use_input_stats, momentum, eps, cudnn_enabled"},
    )  # fmt: skip
    yield define(
        "layer_norm", "norm", "scans", "input, normalized_shape, weight=None, bias=None, eps=1e-05",
        layers="LayerNorm", built="normalized_shape, eps=1e-05, elementwise_affine=True, bias=True",
        traits="one-dtype",
    )  # fmt: skip
    yield define(
        "rms_norm", "norm", "scans", "input, normalized_shape, weight=None, eps=None",
        layers="RMSNorm", built="normalized_shape, eps=None, elementwise_affine=True",
        group="layer_norm",
    )  # fmt: skip
    yield define(
        "group_norm", "norm", "scans", "input, num_groups, weight=None, bias=None, eps=1e-05",
        layers="GroupNorm", built="num_groups, num_channels, eps=1e-05, affine=True, bias=True",
        traits="one-dtype",
    )  # fmt: skip
    near = "size, alpha=0.0001, beta=0.75, k=1.0"
    yield define(
        "local_response_norm", "norm", "elementwise", f"input, {near}",
        layers="LocalResponseNorm CrossMapLRN2d",
        built=near,
    )  # fmt: skip
    yield define("normalize", "norm", "scans", "input, p=2.0, dim=1, eps=1e-12, out=None")
    yield define("renorm", "norm", "scans", "input, p, dim, maxnorm")


def _convolutions(n: int) -> Iterator[OperationInfo]:
    """Over `n` dimensions."""
    yield define(
        f"conv{n}d", "convolution", "windows", _CONVOLUTION, layers=f"Conv{n}d LazyConv{n}d",
        built=_CONVOLUTION_LAYER, traits="product one-dtype", group="conv",
    )  # fmt: skip
    yield define(
        f"conv_transpose{n}d", "convolution", "windows", _TRANSPOSED,
        layers=f"ConvTranspose{n}d LazyConvTranspose{n}d", built=_TRANSPOSED_LAYER,
        traits="product one-dtype", group="conv_transpose",
    )  # fmt: skip


def _poolings(n: int) -> Iterator[OperationInfo]:
    """Over `n` dimensions."""
    adaptive = "input, output_size, return_indices=False"
    for name, layer, takes, built in (
        (f"max_pool{n}d", f"MaxPool{n}d", _MAXIMA, _MAXIMA_LAYER),
        (f"adaptive_max_pool{n}d", f"AdaptiveMaxPool{n}d", adaptive, adaptive[7:]),
    ):
        with_indices = takes.replace("return_indices=False", "return_indices=True")
        always = (f"{name}_with_indices", "torch.adaptive_max_pool1d")
        yield define(
            f"{name} {name}_with_indices", "pooling", "windows", takes, layers=layer, built=built,
            variants={spelling: with_indices for spelling in always if name in spelling},
            group="max_pool",
        )  # fmt: skip
    override = ", divisor_override=None" if n > 1 else ""
    norms = "norm_type, kernel_size, stride=None, ceil_mode=False"
    for name, layer, built, group in (
        (f"avg_pool{n}d", f"AvgPool{n}d", f"{_MEANS}{override}", "avg_pool"),
        (f"adaptive_avg_pool{n}d", f"AdaptiveAvgPool{n}d", "output_size", "avg_pool"),
        (f"lp_pool{n}d", f"LPPool{n}d", norms, "lp_pool"),
    ):
        yield define(
            name, "pooling", "windows", f"input, {built}", layers=layer, built=built, group=group
        )  # fmt: skip
    yield define(
        f"max_unpool{n}d", "pooling", "windows",
        "input, indices, kernel_size, stride=None, padding=0, output_size=None",
        layers=f"MaxUnpool{n}d", built="kernel_size, stride=None, padding=0", group="max_unpool",
    )  # fmt: skip
    if n > 1:
        yield define(
            f"fractional_max_pool{n}d fractional_max_pool{n}d_with_indices", "pooling", "windows",
            "input, kernel_size, output_size=None, output_ratio=None, return_indices=False, "
            "_random_samples=None",
            layers=f"FractionalMaxPool{n}d", traits="random", group="fractional_max_pool",
            variants={
                f"fractional_max_pool{n}d_with_indices": "input, kernel_size, output_size=None, "
                "output_ratio=None, return_indices=True, _random_samples=None"
            },
        )  # fmt: skip


def _further_products() -> Iterator[OperationInfo]:
    yield define(
        "linear", "linear", "products", "input, weight, bias=None", traits="product one-dtype",
        layers="Linear LazyLinear NonDynamicallyQuantizableLinear",
        built="in_features, out_features, bias=True",
    )  # fmt: skip
    yield define(
        "matrix_power linalg.matrix_power", "matmul", "products", "input, n", traits="product"
    )  # fmt: skip
    yield define(
        "bilinear", "linear", "products", "input1, input2, weight, bias=None", layers="Bilinear",
        built="in1_features, in2_features, out_features, bias=True", traits="one-dtype",
    )  # fmt: skip
    yield define(
        "-rmatmul __rmatmul__", "matmul", "products", "other, input", traits="product one-dtype",
        mirrors="matmul", group="matmul",
    )  # fmt: skip


def _recurrences() -> Iterator[OperationInfo]:
    steps = "input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first"
    step = "input, hx, w_ih, w_hh, b_ih=None, b_hh=None"
    sizes, bend = "input_size, hidden_size", "nonlinearity='tanh'"
    more = "bias=True, batch_first=False, dropout=0.0, bidirectional=False"
    for names, layers, takes, built in (
        ("lstm", "LSTM", steps, f"{sizes}, num_layers=1, {more}, proj_size=0"),
        ("gru", "GRU", steps, f"{sizes}, num_layers=1, {more}"),
        ("rnn_tanh", "RNN", steps, f"{sizes}, num_layers=1, {bend}, {more}"),
        ("rnn_relu", "", steps, ""),
        ("lstm_cell", "LSTMCell", step, f"{sizes}, bias=True"),
        ("gru_cell", "GRUCell", step, f"{sizes}, bias=True"),
        ("rnn_tanh_cell", "RNNCell", step, f"{sizes}, bias=True, {bend}"),
        ("rnn_relu_cell", "", step, ""),
    ):
        yield define(
            names, "recurrent", "recurs", takes, layers=layers, built=built, group="rnn",
            traits="product one-dtype",
        )  # fmt: skip


def _lookups() -> Iterator[OperationInfo]:
    yield define(
        "embedding", "embedding", "looks up", f"input, weight, {_LOOKING}, sparse=False",
        layers="Embedding",
        built=f"num_embeddings, embedding_dim, {_LOOKING}, sparse=False, _weight=None, "
        "_freeze=False",
        variants={
            "torch.embedding":
                "weight, input, padding_idx=None, scale_grad_by_freq=False, sparse=False",
        },
    )  # fmt: skip
    further = "sparse=False, per_sample_weights=None, include_last_offset=False, padding_idx=None"
    yield define(
        "embedding_bag", "embedding", "looks up", "input, weight, offsets=None, max_norm=None, "
        f"norm_type=2, scale_grad_by_freq=False, mode='mean', {further}", layers="EmbeddingBag",
        built="num_embeddings, embedding_dim, max_norm=None, norm_type=2.0, "
        "scale_grad_by_freq=False, mode='mean', sparse=False, _weight=None, "
        "include_last_offset=False, padding_idx=None",
        variants={
            "torch.embedding_bag":
                f"weight, input, offsets, scale_grad_by_freq=False, mode='sum', {further}",
        },
    )  # fmt: skip
    yield define("one_hot", "embedding", "looks up", "tensor, num_classes=-1", traits="cuts")


def _resizings() -> Iterator[OperationInfo]:
    how = f"{_SCALING}, mode='nearest', align_corners=None"
    yield define(
        "interpolate upsample upsample_nearest upsample_bilinear", "resize", "resizes",
        f"input, {how}, recompute_scale_factor=None, antialias=False",
        layers="Upsample UpsamplingNearest2d UpsamplingBilinear2d",
        built=f"{how}, recompute_scale_factor=None",
        variants={"upsample_bilinear": f"input, {_SCALING}, mode='bilinear', align_corners=True"},
    )  # fmt: skip
    yield define(
        "grid_sample", "resize", "resizes",
        "input, grid, mode='bilinear', padding_mode='zeros', align_corners=None",
        traits="one-dtype",
    )  # fmt: skip
    yield define(
        "grid_sampler", "resize", "resizes",
        "input, grid, interpolation_mode, padding_mode, align_corners", traits="one-dtype",
        group="grid_sample",
    )  # fmt: skip
