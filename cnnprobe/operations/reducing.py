"""Operations that make one value of many, along a dim or over all, and losses."""

from cnnprobe.operations.info import OperationInfo, define, define_rows

_REDUCTIONS = """
sum | | input, dim=None, keepdim=False, dtype=None
nansum | | input, dim=None, keepdim=False, dtype=None
nanmean | | input, dim=None, keepdim=False, dtype=None
prod | | input, dim=None, keepdim=False, dtype=None
amax | | input, dim=(), keepdim=False
amin | | input, dim=(), keepdim=False
aminmax | | input, dim=None, keepdim=False
median | | input, dim=None, keepdim=False
nanmedian | | input, dim=None, keepdim=False
mode | | input, dim=-1, keepdim=False
std | | input, dim=None, correction=1, keepdim=False
var | | input, dim=None, correction=1, keepdim=False
std_mean | | input, dim=None, correction=1, keepdim=False
var_mean | | input, dim=None, correction=1, keepdim=False
logsumexp | | input, dim, keepdim=False
quantile | | input, q, dim=None, keepdim=False, interpolation='linear'
nanquantile | | input, q, dim=None, keepdim=False, interpolation='linear'
kthvalue | | input, k, dim=-1, keepdim=False
norm | | input, p='fro', dim=None, keepdim=False, out=None, dtype=None
linalg.norm | | A, ord=None, dim=None, keepdim=False, dtype=None
linalg.vector_norm | | x, ord=2, dim=None, keepdim=False, dtype=None
linalg.matrix_norm | | A, ord='fro', dim=(-2,-1), keepdim=False, dtype=None
dist | | input, other, p=2
trace
cov | | input, correction=1, fweights=None, aweights=None | product
corrcoef | | | product
sum_to_size | | input, size
all | | input, dim=None, keepdim=False | cuts
any | | input, dim=None, keepdim=False | cuts
argmax | | input, dim=None, keepdim=False | cuts
argmin | | input, dim=None, keepdim=False | cuts
count_nonzero | | input, dim=None | cuts
histc | | input, bins=100, min=0, max=0 | cuts
bincount | | input, weights=None, minlength=0 | cuts
trapezoid trapz | | y, x=None, dim=-1
cumulative_trapezoid | | y, x=None, dim=-1
diff | | input, n=1, dim=-1, prepend=None, append=None
"""
_SCANS = """
cumsum | | input, dim, dtype=None
cumprod | | input, dim, dtype=None
cummax | | input, dim
cummin | | input, dim
logcumsumexp | | input, dim
"""
_RANKS = "argsort | | input, dim=-1, descending=False, stable=False"
_DETERMINANTS = """
det linalg.det | | A
logdet
slogdet linalg.slogdet | | A
"""
_MATRICES = """
inverse linalg.inv | | A
pinverse linalg.pinv | | input, rcond=1e-15
matrix_exp linalg.matrix_exp | | A
orgqr linalg.householder_product | | input, tau | one-dtype
linalg.cholesky | | A
linalg.eigh | | A
linalg.qr | | A, mode='reduced'
linalg.solve | | A, B, left=True | one-dtype
linalg.svd | | A, full_matrices=True
"""
_OLD = "size_average=None, reduce=None, reduction='mean'"  # the options that most losses share
_NEAR = f"input, target, {_OLD}, weight=None"
_CLASSES = (
    "input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, "
    "reduction='mean'"
)
_LOSSES = f"""
cross_entropy | CrossEntropyLoss | {_CLASSES}, label_smoothing=0.0 | classes
nll_loss | NLLLoss NLLLoss2d | {_CLASSES} | classes
multi_margin_loss | MultiMarginLoss | input, target, p=1, margin=1.0, weight=None, {_OLD} | classes
binary_cross_entropy | BCELoss | input, target, weight=None, {_OLD} | probabilities one-dtype
binary_cross_entropy_with_logits | BCEWithLogitsLoss | \
    input, target, weight=None, {_OLD}, pos_weight=None | probabilities
multilabel_soft_margin_loss | MultiLabelSoftMarginLoss | \
    input, target, weight=None, {_OLD} | probabilities
kl_div | KLDivLoss | input, target, {_OLD}, log_target=False | probabilities
mse_loss | MSELoss | {_NEAR} | values
l1_loss | L1Loss | {_NEAR} | values
smooth_l1_loss | SmoothL1Loss | input, target, {_OLD}, beta=1.0 | values
huber_loss | HuberLoss | input, target, reduction='mean', delta=1.0, weight=None | values
gaussian_nll_loss | GaussianNLLLoss | \
    input, target, var, full=False, eps=1e-06, reduction='mean'
poisson_nll_loss | PoissonNLLLoss | input, target, log_input=True, full=False, \
    size_average=None, eps=1e-08, reduce=None, reduction='mean'
soft_margin_loss | SoftMarginLoss | input, target, {_OLD} | signs
hinge_embedding_loss | HingeEmbeddingLoss | input, target, margin=1.0, {_OLD} | signs
multilabel_margin_loss | MultiLabelMarginLoss | input, target, {_OLD}
cosine_embedding_loss | CosineEmbeddingLoss | input1, input2, target, margin=0, {_OLD} | signs
margin_ranking_loss | MarginRankingLoss | input1, input2, target, margin=0, {_OLD} | signs
triplet_margin_loss | TripletMarginLoss | \
    anchor, positive, negative, margin=1.0, p=2, eps=1e-06, swap=False, {_OLD}
triplet_margin_with_distance_loss | TripletMarginWithDistanceLoss | anchor, positive, negative, \
    distance_function=None, margin=1.0, swap=False, reduction='mean'
ctc_loss | CTCLoss | log_probs, targets, input_lengths, target_lengths, blank=0, \
    reduction='mean', zero_infinity=False
linear_cross_entropy | LinearCrossEntropyLoss | input, linear_weight, target, linear_bias=None, \
    weight=None, reduction='mean', ignore_index=None, label_smoothing=0.0, options=None | \
    product one-dtype
-adaptive_log_softmax | AdaptiveLogSoftmaxWithLoss | input, target | product
"""
# The functions of torch itself take a number for `reduction`, and give a loss a value by default.
_LOSSES_IN_TORCH = {
    "torch.binary_cross_entropy_with_logits":
        "input, target, weight=None, pos_weight=None, reduction='none'",
    "torch.kl_div": "input, target, reduction='none', log_target=False",
    "torch.hinge_embedding_loss": "input, target, margin=1.0, reduction='none'",
    "torch.poisson_nll_loss": "input, target, log_input, full, eps, reduction",
    "torch.cosine_embedding_loss": "input1, input2, target, margin=0.0, reduction='none'",
    "torch.margin_ranking_loss": "input1, input2, target, margin=0.0, reduction='none'",
    "torch.triplet_margin_loss":
        "anchor, positive, negative, margin=1.0, p=2, eps=1e-06, swap=False, reduction='none'",
    "torch.ctc_loss": "log_probs, targets, input_lengths, target_lengths, blank=0, "
        "reduction='none', zero_infinity=False",
}  # fmt: skip
_DISTANCES = """
cosine_similarity | CosineSimilarity | x1, x2, dim=1, eps=1e-08
pairwise_distance | PairwiseDistance | x1, x2, p=2.0, eps=1e-06, keepdim=False
pdist | | input, p=2
cdist | | x1, x2, p=2.0, compute_mode='use_mm_for_euclid_dist_if_necessary' | \
    one-dtype
"""
_PLACES = """
searchsorted | | sorted_sequence, input, out_int32=False, right=False, side=None, sorter=None
bucketize | | input, boundaries, out_int32=False, right=False
"""
_CROSS = """
cross | | input, other, dim=None | one-dtype
linalg.cross | | input, other, dim=-1 | one-dtype | cross
"""


def list_operations() -> tuple[OperationInfo, ...]:
    """All of them."""
    return (
        define("mean", "pooling", "reduces", "input, dim=None, keepdim=False, dtype=None"),
        define("max", "reduction", "reduces", "input, dim, keepdim=False", pairwise="maximum"),
        define("min", "reduction", "reduces", "input, dim, keepdim=False", pairwise="minimum"),
        *define_rows(_REDUCTIONS, "reduction", "reduces"),
        *define_rows(_SCANS, "scan", "scans"),
        *define_rows(_RANKS, "ranking", "scans", traits="cuts"),
        *define_rows(_PLACES, "scan", "looks up", traits="cuts"),
        *define_rows(_DETERMINANTS, "linalg", "reduces"),
        *define_rows(_MATRICES, "linalg", "products"),
        *define_rows(_DISTANCES, "distance", "reduces"),
        *define_rows(_CROSS, "arithmetic", "broadcasts"),
        *define_rows(_LOSSES, "loss", "compares", variants=_LOSSES_IN_TORCH),
    )
