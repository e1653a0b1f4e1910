"""Walks the graph behind an output and gives it as data: each node once, each edge with its input, no recursion."""

import contextlib
import dataclasses
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.autograd.naming import NOBODY, Maker, Namer, infer, inferred_note, is_view
from cnnprobe.autograd.release import STEP, secure
from cnnprobe.autograd.saved import READABLE, Ledger, storages
from cnnprobe.graph import CHECKPOINT, CUSTOM, INPUT, OPERATION, PARAMETER, Edge, Graph, Node
from cnnprobe.graph.order import by_dependence
from cnnprobe.trace import Trace

_LEAF = "AccumulateGrad"
_UNNUMBERED = 1 << 62  # leaves are numbered 2**64 - 1: they belong to no moment
_NO_MARKS: tuple[str, ...] = ()

Link = tuple[int, int, int]  # (position of the node below, which input it is here, which output it is there)


def walk(
    output: Any, *, model: nn.Module | None = None, trace: Trace | None = None, inputs: Iterable[Any] = (), saved: bool = True
) -> Graph:
    """The graph that autograd has built behind a tensor or any nest of tensors.

    It is exact: every distinct node once, every edge with its input index. Nothing is run, unpacked or changed, and the
    graph given keeps no tensor alive.

    Args:
        output: a tensor, or a container, dataclass or object that holds tensors.
        model: names the leaves by their fqn, and its parameters and buffers are not counted as activations.
        trace: the recorded forward pass that made the output; names each node by its module call and the user's line.
        inputs: tensors that were fed, so that what is kept of them is told apart from the activations.
        saved: look at what is kept for backward; False is three times as fast.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> graph = walk((weight * 2).sum())
    >>> [(node.name, node.shape) for node in graph.nodes]
    [('AccumulateGrad', (2,)), ('MulBackward0', (2,)), ('SumBackward0', ())]
    >>> [(edge.start, edge.end) for edge in graph.edges]
    [(0, 1), (1, 2)]
    """
    with _no_collection():
        return _walk(output, model, trace, inputs, saved=saved)


def _walk(output: Any, model: nn.Module | None, trace: Trace | None, inputs: Iterable[Any], *, saved: bool) -> Graph:
    tensors = list(_tensors(output))
    roots = [node for node in map(_gradient_node, tensors) if node is not None]
    functions, links, numbers = _secured(roots)
    below = [[start for start, _, _ in found] for found in links]
    books = _Books(model, inputs, functions)
    makers, calls, notes = _makers(functions, below, numbers, books, trace)
    nodes = _nodes(functions, books, makers, _Marks(tensors), saved=saved and READABLE)
    known = set(roots)
    new = tuple.__new__
    return Graph(
        nodes=tuple(nodes),
        edges=tuple([new(Edge, (start, end, i, o)) for end, found in enumerate(links) for start, i, o in found]),
        calls=calls,
        outputs=tuple(i for i, function in enumerate(functions) if function in known) if roots else (),
        saved=tuple(books.ledger.entries),
        title=type(model).__name__ if model is not None else trace.model if trace is not None else "",
        notes=(*notes, *_notes(tensors, books.ledger, saved=saved)),
    )


def made_by(traces: Sequence[Trace], output: Any) -> Trace | None:
    """Of several recorded forward passes the one that made `output`: the last that began before its newest node was made."""
    numbers = [node._sequence_nr() for node in map(_gradient_node, _tensors(output)) if hasattr(node, "_sequence_nr")]
    newest = max((number for number in numbers if number < _UNNUMBERED), default=-1)
    for trace in reversed(traces):
        made = trace.calls[0].sequence if trace.calls else None
        if made is not None and made[0] < made[1] and made[0] <= newest:
            return trace
    return None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A hundred thousand new objects make the collector look at all that there are, again and again: half of the time of a walk."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# ---------------------------------------------------------------- finding


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a nested value, in order: containers, dataclasses, and plain objects by their attributes."""
    stack, seen = [value], set()
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            yield value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        stack.extend(reversed(_members(value)))


def _members(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if type(value).__module__ in ("builtins", "torch") or isinstance(value, type | nn.Module) or callable(value):
        return []
    return list(getattr(value, "__dict__", {}).values())


def _gradient_node(tensor: Tensor) -> Any:
    """The node whose gradient is the tensor's: its grad_fn, or for a leaf the one that accumulates it."""
    if not tensor.requires_grad:
        return None
    return tensor.grad_fn if tensor.grad_fn is not None else torch.autograd.graph.get_gradient_edge(tensor).node


def _collect(roots: Sequence[Any]) -> tuple[list[Any], list[list[Link]]]:
    """Every node that is reached from the roots, and for each what lies below it."""
    functions = list(dict.fromkeys(roots))
    position = {function: i for i, function in enumerate(functions)}
    links: list[list[Link]] = []
    known = position.get
    for function in functions:  # grows while it is walked
        found = []
        i = -1  # counted by hand, as all of this loop is written for speed: it runs once an edge
        for below, output in function.next_functions:
            i += 1
            if below is None:
                continue
            at = known(below)
            if at is None:
                at = position[below] = len(functions)
                functions.append(below)
            found.append((at, i, output))
        links.append(found)
    return functions, links


def _secured(roots: Sequence[Any]) -> tuple[list[Any], list[list[Link]], list[int]]:
    """All nodes in the order of the forward pass, safe to drop; what lies below each, and their sequence numbers."""
    functions, links = _collect(roots)
    order, numbers = _forward_order(functions, links)
    position = [0] * len(order)
    for new, old in enumerate(order):
        position[old] = new
    functions = [functions[old] for old in order]
    links = [[(position[node], i, o) for node, i, o in links[old]] for old in order]
    secure(functions, [[node for node, _, _ in found] for found in links] if len(functions) > STEP else [])
    return functions, links, [numbers[old] for old in order]


def nodes_behind(tensor: Tensor) -> list[Any]:
    """The grad_fn objects of the graph behind a tensor, in the order of the forward pass; they may be let go of as they are."""
    with _no_collection():
        root = _gradient_node(tensor)
        return _secured([root])[0] if root is not None else []


def _forward_order(functions: Sequence[Any], links: Sequence[Sequence[Link]]) -> tuple[list[int], list[int]]:
    """The order in which the nodes were made, a leaf just before the first that uses it; and every node's sequence number."""
    try:
        numbers = [function._sequence_nr() for function in functions]
    except AttributeError:  # not every class of nodes of every version of torch tells
        numbers = [function._sequence_nr() if hasattr(function, "_sequence_nr") else -1 for function in functions]
    keys: list[float] = list(numbers)
    ordered = True
    for node, found in enumerate(links):
        key = keys[node]
        for below, _, _ in found:
            if keys[below] >= key:
                if numbers[below] > _UNNUMBERED:
                    keys[below] = min(keys[below], key - 0.5)
                else:
                    ordered = False
    if not ordered:  # numbers of several threads, or none
        return by_dependence(keys, [[below for below, _, _ in found] for found in links]), numbers
    return sorted(range(len(functions)), key=keys.__getitem__), numbers


# ---------------------------------------------------------------- naming


class _Books:
    """What the leaves are called, and what is kept for backward."""

    def __init__(self, model: nn.Module | None, inputs: Iterable[Any], functions: Sequence[Any]) -> None:
        named: dict[int, str] = {}
        own: list[Tensor] = []
        if model is not None:
            for fqn, parameter in model.named_parameters(remove_duplicate=False):
                named.setdefault(id(parameter), fqn)
                own.append(parameter)
            own.extend(model.buffers())
        fed = list(_tensors(list(inputs)))
        self.leaves: dict[int, Tensor] = {}
        self.parameters: dict[int, str] = {}  # fqn at the position of a leaf
        for i, function in enumerate(functions):
            leaf = getattr(function, "variable", None) if type(function).__name__ == _LEAF else None
            if leaf is None:
                continue
            self.leaves[i] = leaf
            if id(leaf) in named:
                self.parameters[i] = named[id(leaf)]
            (own if id(leaf) in named or isinstance(leaf, nn.Parameter) else fed).append(leaf)
        self.own = {identity for tensor in own if not _is_lazy(tensor) for identity, _ in storages(tensor)}
        self.ledger = Ledger(self.own, {identity for tensor in fed for identity, _ in storages(tensor)} - self.own)


def _is_lazy(tensor: Tensor) -> bool:
    return nn.parameter.is_lazy(tensor)


def _makers(
    functions: Sequence[Any], below: Sequence[Sequence[int]], numbers: Sequence[int], books: _Books, trace: Trace | None
) -> tuple[list[Maker], tuple[Any, ...], tuple[str, ...]]:
    if trace is None:
        if not books.parameters:
            return [NOBODY] * len(functions), (), ()
        inferred = infer([type(function).__name__ for function in functions], below, books.parameters)
        return [inferred.get(i, NOBODY) for i in range(len(functions))], (), inferred_note(inferred)
    namer = Namer(trace)
    maker = namer.maker
    makers = [maker(number) if number < _UNNUMBERED else NOBODY for number in numbers]
    return makers, namer.calls, ()


class _Marks:
    """What is to be said of a node besides its shape, told once for each class of nodes."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        self.of_kinds: dict[type, tuple[str, str, tuple[str, ...], bool]] = {}
        self.hooked = {tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None and tensor._backward_hooks}

    def of_kind(self, function: Any) -> tuple[str, str, tuple[str, ...], bool]:
        """(name, kind, marks, has metadata) of a node; remembered, unless its Python class stands for many kinds of C++ nodes."""
        name = function.name().rpartition("::")[2]
        kind = OPERATION
        if isinstance(function, torch.autograd.function.FunctionCtx):
            kind = CHECKPOINT if name == "CheckpointFunctionBackward" else CUSTOM
        marks = ("view",) if is_view(name) else ("in-place", "view") if name == "CopySlices" else _NO_MARKS
        found = (name, kind, marks, hasattr(function, "_input_metadata"))
        if type(function).__name__ == name:
            self.of_kinds[type(function)] = found
        return found


def _nodes(functions: Sequence[Any], books: _Books, makers: Sequence[Maker], marking: _Marks, *, saved: bool) -> Iterator[Node]:
    """The nodes as data. It runs once a node, and most of the time of a walk goes by here: hence no calls that can be spared."""
    dtypes: dict[torch.dtype, str] = {}
    new = tuple.__new__
    for i, (function, maker) in enumerate(zip(functions, makers, strict=True)):
        if i in books.leaves:
            yield _leaf(i, books.leaves[i], books.parameters.get(i))
            continue
        found = marking.of_kinds.get(type(function))
        name, kind, marks, has_metadata = found if found is not None else marking.of_kind(function)
        shape: tuple[int, ...] | None = None
        dtype, size = "", 0
        if has_metadata and (metadata := function._input_metadata):
            first = metadata[0]
            dtype = dtypes.get(first.dtype) or _dtype(first.dtype, dtypes)
            try:
                shape = tuple(first.shape)
            except RuntimeError:  # nested tensors have none
                shape = None
            if len(metadata) > 1:
                marks = (*marks, f"{len(metadata)} outputs")
        if saved:
            size, more = books.ledger.book(i, function)
            marks = (*marks, *more) if more else marks
        module, call, source, inplace = maker
        if inplace and "in-place" not in marks:
            marks = (*marks, "in-place")
        if marking.hooked and function in marking.hooked:
            marks = (*marks, "hook")
        yield new(Node, (i, name, kind, module, call, source, shape, dtype, None, size, marks, 1))


def _dtype(dtype: torch.dtype, known: dict[torch.dtype, str]) -> str:
    return known.setdefault(dtype, str(dtype).removeprefix("torch."))


def _leaf(i: int, leaf: Tensor, fqn: str | None) -> Node:
    kind = PARAMETER if fqn is not None or isinstance(leaf, nn.Parameter) else INPUT
    hooked = leaf._backward_hooks or getattr(leaf, "_post_accumulate_grad_hooks", None)
    return Node(
        i,
        _LEAF,
        kind,
        module=fqn.rpartition(".")[0] if fqn is not None else None,
        shape=tuple(leaf.shape),
        dtype=str(leaf.dtype).removeprefix("torch."),
        parameter=fqn,
        marks=("hook",) if hooked else (),
    )


def _notes(tensors: Sequence[Tensor], ledger: Ledger, *, saved: bool) -> Iterator[str]:
    cut = sum(not tensor.requires_grad for tensor in tensors)
    if not tensors:
        yield "the output holds no tensor"
    elif cut:
        yield f"{cut} of {len(tensors)} output tensors have no graph: they do not require grad"
    if saved and not READABLE:
        yield "what is kept for backward was not read: torch 2.7 or later can be looked at without running unpack hooks"
    elif ledger.slots and not ledger.found:
        yield "a backward pass has freed what this graph had kept"
