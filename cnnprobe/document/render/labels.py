"""What is written in a box of a graph, for all formats: plain text, to be escaped by each."""

import functools
import unicodedata
from collections.abc import Mapping

from cnnprobe.document.render.units import format_size, make_inert
from cnnprobe.graph import BLOCKS, FUNCTION, INPUT, MODULE, MORE, PARAMETER, Node
from cnnprobe.operations import ALL, Family, OperationInfo, find_function, find_layer

LONGEST = 44  # characters of a line in a box; more is cut in the middle, the tooltip has all
_COLOURS: Mapping[Family, str] = {
    "convolution": "convolution", "norm": "normalisation", "attention": "attention",
    "recurrent": "attention", "softmax": "attention", "pooling": "pooling", "resize": "pooling",
    "linear": "linear", "matmul": "linear", "embedding": "linear", "join": "joining",
    "activation": "activation", "reshape": "shape", "permute": "shape", "selection": "shape",
    "repetition": "shape", "shuffle": "shape", "pad": "shape", "identity": "shape",
    "dropout": "shape",
}  # fmt: skip
# What the names of users' classes and of autograd's kernels are made of.
_STEMS = {
    "conv": "convolution", "norm": "normalisation", "attention": "attention", "lstm": "attention",
    "gru": "attention", "rnn": "attention", "transformer": "attention", "softmax": "attention",
    "pool": "pooling", "upsample": "pooling", "linear": "linear", "embed": "linear",
    "elu": "activation", "silu": "activation", "sigmoid": "activation", "tanh": "activation",
    "swish": "activation", "mish": "activation", "threshold": "activation", "flatten": "shape",
    "dropout": "shape", "add": "joining", "concat": "joining",
}  # fmt: skip


def write_title(node: Node) -> str:
    """The first line: what a reader looks for.

    >>> write_title(Node(0, "Conv2d", "module", "layer1.0.conv1", call=1)), write_title(Node(0, "torch.flatten", "function", ""))
    ('layer1.0.conv1 (2nd call)', 'flatten')
    """  # noqa: E501
    if node.kind == MODULE:
        return f"{node.module or node.name}{write_repeat(node.call)}"
    if node.kind == FUNCTION:
        name = node.name.rpartition(".")[2]
        return name.strip("_") if name.startswith("__") else name
    if node.kind == PARAMETER:
        return node.parameter or "parameter"
    if node.kind == INPUT and node.name == "AccumulateGrad":
        return "input"
    return node.name


def list_details(node: Node) -> list[str]:
    """The lines below: class, shape, what is kept for backward, and what is special."""
    return [*describe_place(node), *list_facts(node)]


def describe_place(node: Node) -> list[str]:
    """What it is, or where it was made: what the title does not say."""
    if node.kind == MODULE and node.module:
        return [node.name]
    if node.kind == BLOCKS:
        to = " ".join(
            part for part in (node.module, *node.marks[:1]) if part and not part.startswith("like ")
        )
        return [
            line
            for line in (to, *(mark for mark in node.marks if mark.startswith("like ")))
            if line
        ]
    return (
        describe_module(node.module, node.call)
        if node.kind not in (MODULE, FUNCTION, PARAMETER, INPUT, MORE)
        else []
    )


def describe_module(module: str | None, call: int) -> list[str]:
    """In which module call something was made."""
    return [f"in {module or 'the model itself'}{write_repeat(call)}"] if module is not None else []


def list_facts(node: Node) -> list[str]:
    """Shape, what is kept for backward, and what is special."""
    lines = [describe_form(node)] if node.shape is not None and node.kind != MORE else []
    if node.saved_bytes:
        lines.append(f"keeps {format_size(node.saved_bytes)}")
    marks = [
        mark for mark in node.marks if node.kind != BLOCKS or not mark.startswith(("to ", "like "))
    ]
    return [*lines, ", ".join(marks)] if marks else lines


def describe_form(node: Node) -> str:
    """Shape, and the dtype where it is not the usual one.

    >>> describe_form(Node(0, "x", "module", shape=(1, 8), dtype="float32")), describe_form(Node(0, "x", "module", shape=(1,), dtype="int64"))
    ('(1, 8)', '(1,) int64')
    """  # noqa: E501
    return f"{node.shape}" + (f" {node.dtype}" if node.dtype not in ("float32", "") else "")


def write_tooltip(node: Node) -> str:
    """All that is known of a node, one line each."""
    where = f"in {node.module!r}{write_repeat(node.call)}" if node.module else ""
    made_of = f"{node.members} operations" if node.members > 1 else ""
    lines = [
        write_title(node),
        node.name if node.name != write_title(node) else "",
        where,
        *list_details(node),
        made_of,
        node.source,
    ]
    return "\n".join(dict.fromkeys(make_inert(line) for line in lines if line))


def find_family(node: Node) -> str:
    """What sort of operation it is, for the colour; "other" where the name does not tell.

    >>> find_family(Node(0, "ConvolutionBackward0", "operation")), find_family(Node(0, "torch.Tensor.add_", "function"))
    ('convolution', 'joining')
    """  # noqa: E501
    if node.kind in (PARAMETER, INPUT, MORE):
        return node.kind
    info = find_layer(node.name) or find_function(node.name) or _find_kernel(node.name)
    if info is not None:
        return _COLOURS.get(info.family, "other")
    name = node.name.rpartition(".")[2].lower()
    return next((family for stem, family in _STEMS.items() if stem in name), "other")


@functools.lru_cache(maxsize=1024)
def _find_kernel(name: str) -> OperationInfo | None:
    """The operation of a node of autograd, which spells it its own way:
    "MaxPool2DWithIndicesBackward0".
    """
    kernel, backward, _ = name.partition("Backward")
    return _map_squeezed_names().get(kernel.lower()) if backward else None


@functools.lru_cache(maxsize=1)
def _map_squeezed_names() -> Mapping[str, OperationInfo]:
    names = {spelling: info for info in ALL for spelling in (*info.functions, info.name)}
    return {name.replace("_", "").lower(): info for name, info in names.items()}


def shorten(text: str, longest: int = LONGEST) -> str:
    """A line that fits: inert, and cut in the middle."""
    text = make_inert(text)
    return (
        text
        if len(text) <= longest
        else f"{text[: longest - longest // 2 - 1]}…{text[-(longest // 2) :]}"
    )


def count_columns(text: str) -> int:
    """Width of a text in characters of a fixed width; CJK characters take two."""
    return (
        len(text)
        if text.isascii()
        else sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    )


def write_repeat(call: int) -> str:
    """Which call of a module it is: "" of the first, " (2nd call)"."""
    if call == 0:
        return ""
    number = call + 1
    ending = (
        "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    )
    return f" ({number}{ending} call)"
