"""What the catalogue says of one operation, and the notation in which its tables are written."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

Effect = Literal[
    "keeps",  # every value and the shape stay: clone, to, detach
    "elementwise",  # one tensor, each value by itself: relu, exp
    "broadcasts",  # several tensors, value by value: add, where
    "scans",  # along a dim, the shape stays: softmax, cumsum, layer_norm
    "rearranges",  # the values change places: flip, roll, pixel_shuffle
    "reshapes",  # the same values in the same order: view, squeeze
    "turns",  # dims change places: permute, t
    "selects",  # some of the values: getitem, chunk, gather
    "expands",  # values are repeated: expand, tile
    "pads",
    "joins",  # several tensors into one, side by side: cat, stack
    "reduces",  # fewer dims or values: sum, max, std
    "windows",  # a window slides over the map: conv2d, max_pool2d
    "resizes",  # the map is sampled anew: interpolate, grid_sample
    "products",  # sums of products: matmul, linear, attention
    "looks up",  # rows of a table by index: embedding, one_hot
    "recurs",  # step by step along a sequence: lstm
    "compares",  # output and target into a loss
    "makes",  # a new tensor out of none: zeros, new_full
    "fills",  # values are written into a tensor: copy_, __setitem__, scatter
    "asks",  # no tensor comes out: item, numpy, allclose
]
Family = Literal[
    "linear", "convolution", "norm", "dropout", "activation", "softmax", "pooling", "resize", "pad",
    "embedding", "attention", "recurrent", "matmul", "join", "reshape", "permute", "identity",
    "cast", "selection", "repetition", "shuffle", "arithmetic", "math", "comparison", "logic",
    "reduction", "scan", "ranking", "distance", "loss", "creation", "writing", "linalg", "question",
]  # fmt: skip
Trait = Literal[
    "view",  # the result shares the memory of a contiguous input
    "cuts",  # the result has no grad_fn
    "flat",  # the gradient is zero everywhere: round, sign
    "writes",  # in place, though the name does not end in "_"
    "commutes",
    "sequence",  # the first argument is a sequence of tensors
    "product",  # its multiply-accumulates are counted
    "one-dtype",  # raises where its tensors are of several dtypes
    "random",
    "uninitialised",  # the result is what the memory held before
    "rectifies",  # zero for all that is negative
    "saturates",  # nearly flat on both sides
    "classes",  # a loss whose target is a class index a sample
    "probabilities",  # a loss whose target is between 0 and 1
    "values",  # a loss whose target is what the output should be
    "signs",  # a loss whose target is 1 or -1
]

# torch's names of arguments that are tensors, and of those that a layer owns.
PARAMETERS = frozenset({"weight", "bias", "running_mean", "running_var"})
TENSORS = PARAMETERS | frozenset({
    "input", "input1", "input2", "other", "tensors", "operands", "mat1", "mat2", "batch1", "batch2",
    "vec", "vec1", "vec2", "x1", "x2", "query", "key", "attn_mask", "target",
    "targets", "log_probs", "anchor", "positive", "negative", "var", "pos_weight", "end", "tensor1",
    "tensor2", "condition", "mask", "index", "indices", "src", "source", "grid", "theta", "offsets",
    "hx", "linear_weight", "linear_bias", "in_proj_weight", "in_proj_bias", "out_proj_weight",
    "out_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight", "bias_k", "bias_v",
    "static_k", "static_v", "key_padding_mask", "logits", "input_lengths", "target_lengths",
    "per_sample_weights", "_random_samples", "out",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Arguments in order, keyword-only ones last; `tensors` and `parameters` are some of them."""

    names: tuple[str, ...]
    defaults: Mapping[str, object]
    tensors: tuple[str, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationInfo:
    """One operation of torch, however it is written."""

    name: str  # "conv2d"
    group: str  # what the diagnosis rules call it, whatever its rank: "conv"
    family: Family  # what may stand in its place: "convolution"
    effect: Effect  # what it does to shapes
    functions: tuple[str, ...]  # spellings; "linalg.inv" in that namespace alone
    layers: tuple[str, ...]  # classes of torch.nn
    signature: Signature  # of the function
    constructor: Signature | None  # of the first layer, where it is known
    variants: Mapping[str, Signature]  # of the spellings and layers with another signature
    traits: frozenset[Trait]
    mirrors: str  # "sub" for rsub: the same with its operands in the other order
    pairwise: str  # "maximum" for max: what it is of two tensors


@cache
def parse_signature(text: str) -> Signature:
    """The signature that a text in Python's notation stands for.

    >>> found = parse_signature("input, p=0.5")
    >>> found.names, dict(found.defaults)
    (('input', 'p'), {'p': 0.5})
    """
    parts = [part.strip().partition("=") for part in text.split(", ") if part.strip()]
    names = tuple(name for name, _, _ in parts)
    return Signature(
        names=names,
        defaults={name: _evaluate(value) for name, equals, value in parts if equals},
        tensors=tuple(name for name in names if name in TENSORS),
        parameters=tuple(name for name in names if name in PARAMETERS),
    )


_evaluate = cache(ast.literal_eval)  # some thirty texts, six hundred times


def define(
    names: str,
    family: Family,
    effect: Effect,
    takes: str = "input",
    *,
    layers: str = "",
    traits: str = "",
    group: str = "",
    built: str | None = None,
    variants: Mapping[str, str] | None = None,
    mirrors: str = "",
    pairwise: str = "",
) -> OperationInfo:
    """One operation, in short notation: `names` and `layers` are words, the canonical name first.

    Args:
        names: the spellings as functions; "-softmax2d" is a name that no function has.
        family: what may stand in its place.
        effect: what it does to shapes.
        takes: the function's signature.
        layers: the classes of torch.nn.
        traits: words of Trait.
        group: the name for the diagnosis rules; the canonical one where empty.
        built: the signature of the first layer; by default the function's without its tensors.
        variants: other signatures, by spelling, full name or layer class.
        mirrors: the operation that this one is with its operands in the other order.
        pairwise: the operation that this one is where it gets two tensors.
    """
    first, *others = names.split()
    name = first.removeprefix("-")
    return OperationInfo(
        name=name,
        group=group or name,
        family=family,
        effect=effect,
        functions=tuple(others if first.startswith("-") else (first, *others)),
        layers=tuple(layers.split()),
        signature=parse_signature(takes),
        constructor=_derive_constructor(takes, built) if layers and family != "loss" else None,
        variants={key: parse_signature(text) for key, text in (variants or {}).items()},
        traits=cast("frozenset[Trait]", frozenset(traits.split())),
        mirrors=mirrors,
        pairwise=pairwise,
    )


def _derive_constructor(takes: str, built: str | None) -> Signature:
    """The signature of a layer; where none is given, it takes what is no tensor."""
    if built is not None:
        return parse_signature(built)
    given = [part.partition("=")[0] for part in takes.split(", ")]
    return parse_signature(
        ", ".join(
            part
            for part, name in zip(takes.split(", "), given, strict=True)
            if name not in TENSORS and name != "training"
        )
    )


def define_rows(
    rows: str,
    family: Family,
    effect: Effect,
    takes: str = "input",
    *,
    traits: str = "",
    group: str = "",
    built: str | None = None,
    variants: Mapping[str, str] | None = None,
) -> Iterator[OperationInfo]:
    """Several operations of one family, a line each: `names | layers | takes | traits | group`.

    A cell may be left out at the end, or empty: the arguments of this function stand for it.
    """
    other = variants or {}
    for row in rows.strip().splitlines():
        cells = [" ".join(cell.split()) for cell in row.split("|")]
        names, layers, own_takes, own_traits, own_group = cells + [""] * (5 - len(cells))
        yield define(
            names,
            family,
            effect,
            own_takes or takes,
            layers=layers,
            traits=f"{traits} {own_traits}",
            group=own_group or group,
            built=built,
            variants={key: other[key] for key in other if key.split(".")[-1] in names.split()},
        )
