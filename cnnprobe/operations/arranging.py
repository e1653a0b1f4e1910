"""Operations that move, select, repeat, join or make values, and compute nothing or little."""

from collections.abc import Iterator

from cnnprobe.operations.info import OperationInfo, define, define_rows

_VIEWS = """
view _unsafe_view | | input, size
view_as | | input, other
reshape | | input, shape
reshape_as | | input, other
ravel
squeeze | | input, dim=None
unsqueeze | | input, dim
atleast_1d
atleast_2d
atleast_3d
"""
_COMPLEX = "view_as_real\nview_as_complex"
_TURNS = """
permute | | input, dims
transpose swapaxes swapdims | | input, dim0, dim1
movedim moveaxis | | input, source, destination | | permute
t | | | | transpose
T | | | | transpose
mT | | | | transpose
H | | | | transpose
mH adjoint | | | | transpose
"""
_SELECTIONS = """
-getitem __getitem__ | | input, index | view
select | | input, dim, index | view
narrow | | input, dim, start, length | view
slice | | input, dim=0, start=None, end=None, step=1 | view
chunk unsafe_chunk | | input, chunks, dim=0 | view
split unsafe_split | | input, split_size_or_sections, dim=0 | view
split_with_sizes unsafe_split_with_sizes | | input, split_sizes, dim=0 | view
tensor_split | | input, indices_or_sections, dim=0 | view
hsplit | | input, indices_or_sections | view
vsplit | | input, indices_or_sections | view
dsplit | | input, indices_or_sections | view
unbind | | input, dim=0 | view
diagonal | | input, offset=0, dim1=0, dim2=1 | view
linalg.diagonal | | A, offset=0, dim1=-2, dim2=-1 | view | diagonal
diag | | input, diagonal=0
as_strided | | input, size, stride, storage_offset=None | view
index_select | | input, dim, index
gather | | input, dim, index, sparse_grad=False
masked_select | | input, mask
narrow_copy | | input, dim, start, length
take | | input, index
take_along_dim | | input, indices, dim=None
"""
_RANKED = """
multinomial | | input, num_samples, replacement=False | cuts random
topk | | input, k, dim=None, largest=True, sorted=True
nonzero | | input, as_tuple=False | cuts
argwhere | | input | cuts
unique | | input, sorted=True, return_inverse=False, return_counts=False, dim=None | cuts
unique_consecutive | | input, return_inverse=False, return_counts=False, dim=None | cuts
"""
_SORTED = """
sort | | input, dim=-1, descending=False, stable=False
msort
"""
_REARRANGED = """
flip | | input, dims
fliplr
flipud
roll | | input, shifts, dims=None
rot90 | | input, k=1, dims=(0,1)
pixel_shuffle | PixelShuffle | input, upscale_factor
pixel_unshuffle | PixelUnshuffle | input, downscale_factor
channel_shuffle native_channel_shuffle | ChannelShuffle | input, groups
"""
_REPETITIONS = """
expand | | input, size | view
expand_as | | input, other | view
broadcast_to | | input, size | view
broadcast_tensors | | tensors | view sequence
Tensor.unfold | | input, dimension, size, step | view | unfold
meshgrid | | tensors, indexing=None | view sequence
repeat | | input, repeats
tile | | input, dims
repeat_interleave | | input, repeats, dim=None, output_size=None
diag_embed | | input, offset=0, dim1=-2, dim2=-1
diagflat | | input, offset=0
"""
_JOINS = """
cat concat concatenate | | tensors, dim=0
stack | | tensors, dim=0 | | stack
hstack
vstack row_stack
dstack
column_stack
block_diag | | | | block_diag
cartesian_prod | | | | cartesian_prod
"""
_MAKERS = """
zeros | | size
ones | | size
full | | size, fill_value
eye | | n, m=None
arange | | start, end, step=1
range | | start, end, step=1
linspace | | start, end, steps
logspace | | start, end, steps, base=10.0
tensor | | data, dtype=None, device=None
as_tensor | | data, dtype=None, device=None
asarray | | obj, dtype=None, device=None
from_numpy | | ndarray
scalar_tensor | | s
tril_indices | | row, col, offset=0
triu_indices | | row, col, offset=0
zeros_like | | input
ones_like | | input
full_like | | input, fill_value
new_zeros | | input, size
new_ones | | input, size
new_full | | input, size, fill_value
new_tensor | | input, data
empty | | size | uninitialised
empty_like | | input | uninitialised
empty_strided | | size, stride | uninitialised
new_empty | | input, size | uninitialised
new_empty_strided | | input, size, stride | uninitialised
rand | | size | random
randn | | size | random
randint | | low, high, size | random
randperm | | n | random
rand_like | | input | random
randn_like | | input | random
randint_like | | input, low, high | random
"""
_DRAWS_EACH = """
bernoulli | | input, p=None | flat
poisson | | | flat
"""
_DRAWS = """
normal | | mean, std | flat
binomial | | count, prob | one-dtype
"""
_CONTENTS = """
-setitem __setitem__ | | input, index, value | writes
copy | | input, src, non_blocking=False
fill | | input, value
zero
fill_diagonal | | input, fill_value, wrap=False
index_put | | input, indices, values, accumulate=False | one-dtype
index_copy | | input, dim, index, source | one-dtype
index_fill | | input, dim, index, value
masked_scatter | | input, mask, source | one-dtype
scatter | | input, dim, index, src | one-dtype
select_scatter | | input, src, dim, index
slice_scatter | | input, src, dim=0, start=None, end=None, step=1
diagonal_scatter | | input, src, offset=0, dim1=0, dim2=1
put | | input, index, source, accumulate=False | one-dtype
uniform | | input, from=0, to=1 | random
random | | input, from=0, to=None | random
exponential | | input, lambd=1 | random
cauchy | | input, median=0, sigma=1 | random
geometric | | input, p | random
log_normal | | input, mean=1, std=2 | random
-resize | | input, size
resize_as | | input, other
"""
_SUMS_IN_PLACE = """
scatter_add | | input, dim, index, src
scatter_reduce | | input, dim, index, src, reduce, include_self=True
index_add | | input, dim, index, source, alpha=1
index_reduce | | input, dim, index, source, reduce, include_self=True
"""
_QUESTIONS = """
item
tolist
numpy
__array__
__bool__ __nonzero__
__int__
__float__
__complex__
__index__
__len__
__contains__ | | input, element
allclose | | input, other, rtol=1e-05, atol=1e-08, equal_nan=False | one-dtype
equal | | input, other
is_nonzero
numel nelement
dim ndimension
size
"""


def list_operations() -> tuple[OperationInfo, ...]:
    """All of them."""
    return (
        define(
            "flatten", "reshape", "reshapes", "input, start_dim=0, end_dim=-1", layers="Flatten",
            built="start_dim=1, end_dim=-1", traits="view",
        ),
        define(
            "unflatten", "reshape", "reshapes", "input, dim, sizes", layers="Unflatten",
            built="dim, unflattened_size", traits="view",
        ),
        *define_rows(_VIEWS, "reshape", "reshapes", traits="view"),
        *define_rows(_COMPLEX, "cast", "reshapes", traits="view"),
        *define_rows(_TURNS, "permute", "turns", traits="view"),
        *define_rows(_SELECTIONS, "selection", "selects"),
        *define_rows(_RANKED, "ranking", "selects"),
        *define_rows(_SORTED, "ranking", "rearranges"),
        *define_rows(_REARRANGED, "shuffle", "rearranges"),
        *define_rows(_REPETITIONS, "repetition", "expands"),
        *_paddings(),
        *define_rows(_JOINS, "join", "joins", "tensors", traits="sequence", group="cat"),
        *define_rows(_MAKERS, "creation", "makes", traits="cuts"),
        *define_rows(_DRAWS_EACH, "creation", "elementwise", traits="random"),
        *define_rows(
            _DRAWS, "creation", "broadcasts", traits="random",
            variants={"torch.Tensor.normal": "input, mean=0.0, std=1.0"},
        ),
        define(
            "affine_grid affine_grid_generator", "creation", "makes",
            "theta, size, align_corners=None",
        ),
        *define_rows(_CONTENTS, "writing", "fills"),
        *define_rows(_SUMS_IN_PLACE, "arithmetic", "fills", traits="one-dtype"),
        *define_rows(_QUESTIONS, "question", "asks", traits="cuts"),
    )  # fmt: skip


def _paddings() -> Iterator[OperationInfo]:
    kinds = {"Zero": "constant", "Constant": "constant", "Reflection": "reflect",
             "Replication": "replicate", "Circular": "circular"}  # fmt: skip
    yield define(
        "pad constant_pad_nd", "pad", "pads", "input, pad, mode='constant', value=None",
        layers=" ".join(f"{kind}Pad{n}d" for kind in kinds for n in (1, 2, 3)), built="padding",
        variants={
            "constant_pad_nd": "input, pad, value=0, mode='constant'",
            **{
                f"{kind}Pad{n}d": f"input, padding, mode='{mode}'"
                for kind, mode in kinds.items() for n in (1, 2, 3)
            },
        },
    )  # fmt: skip
