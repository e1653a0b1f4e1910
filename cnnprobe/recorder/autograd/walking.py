"""Walks the graph behind an output and gives it as data, each node named by what made it, each
storage that is kept counted once.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.graph import CHECKPOINT, CUSTOM, INPUT, OPERATION, PARAMETER, Call, Edge, Graph, Node
from cnnprobe.recorder.assembly import no_collection
from cnnprobe.recorder.autograd.finding import (
    UNNUMBERED,
    find,
    nodes_in,
    numbers_of,
    tensors_in,
)
from cnnprobe.recorder.autograd.naming import Maker, Namer, infer, inferred_note, is_view
from cnnprobe.recorder.autograd.saved import READABLE, SavedLedger, storages
from cnnprobe.recorder.execution import list_unsharded
from cnnprobe.recorder.inventory import list_own_tensors, named_modules
from cnnprobe.recorder.values import dtype_name
from cnnprobe.records.trace import Trace

_LEAF = "AccumulateGrad"
_NO_MARKS: tuple[str, ...] = ()


def walk(
    output: Any,
    *,
    model: nn.Module | None = None,
    trace: Trace | None = None,
    inputs: Iterable[Any] = (),
    saved: bool = True,
) -> Graph:
    """The graph that autograd has built behind a tensor or any nest of tensors.

    It is exact: every distinct node once, every edge with its input index. Nothing is run, unpacked
    or changed, and the graph given keeps no tensor alive.

    Args:
        output: a tensor, or a container, dataclass or object that holds tensors.
        model: names the leaves by their fqn, and its parameters and buffers are not counted as
            activations.
        trace: the recorded forward pass that made the output; names each node by its module call
            and the user's line.
        inputs: tensors that were fed, so that what is kept of them is told apart from the
            activations.
        saved: look at what is kept for backward; False is three times as fast.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> graph = walk((weight * 2).sum())
    >>> [(node.name, node.shape) for node in graph.nodes]
    [('AccumulateGrad', (2,)), ('MulBackward0', (2,)), ('SumBackward0', ())]
    >>> [(edge.start, edge.end) for edge in graph.edges]
    [(0, 1), (1, 2)]
    """
    with no_collection():
        return _walk(output, model, trace, inputs, saved=saved)


def _walk(
    output: Any, model: nn.Module | None, trace: Trace | None, inputs: Iterable[Any], *, saved: bool
) -> Graph:
    tensors = list(tensors_in(output))
    roots = list(nodes_in(output))
    functions, edges = find(roots)
    leaves = _Leaves(model, functions)
    makers, calls, notes = _makers(functions, edges, leaves, trace)
    ledger = leaves.ledger(inputs) if saved and READABLE else None
    if ledger is not None:
        ledger.book(functions)
    nodes = _nodes(functions, leaves, makers, _Marks(tensors), ledger)
    known = set(roots)
    return Graph(
        nodes=tuple(nodes),
        edges=tuple(edges),
        calls=calls,
        outputs=tuple([i for i, function in enumerate(functions) if function in known]),
        saved=tuple(ledger.entries) if ledger is not None else (),
        title=type(model).__name__
        if model is not None
        else trace.model
        if trace is not None
        else "",
        notes=(*notes, *_notes(tensors, ledger, saved=saved)),
    )


def made_by(traces: Sequence[Trace], output: Any) -> Trace | None:
    """Of several recorded forward passes the one that made `output`: the last that began before its
    newest node was made.
    """
    numbers = numbers_of(nodes_in(output))
    newest = max((number for number in numbers if number < UNNUMBERED), default=-1)
    for trace in reversed(traces):
        made = trace.calls[0].sequence if trace.calls else None
        if made is not None and made[0] < made[1] and made[0] <= newest:
            return trace
    return None


def saved_behind(functions: Sequence[Any]) -> tuple[int, bool]:
    """Bytes of activations that these nodes and those below them keep for backward, and whether a
    backward pass has freed them all.
    """
    if not READABLE:
        return 0, False
    with no_collection():
        found = find(functions).functions
        ledger = _Leaves(None, found).ledger(())
        ledger.book(found)
        return sum(ledger.sizes), bool(ledger.slots and not ledger.found)


# ---------------------------------------------------------------- leaves and makers


class _Leaves:
    """The tensors at which the graph begins, and what those are called that are parameters of the
    model.
    """

    def __init__(self, model: nn.Module | None, functions: Sequence[Any]) -> None:
        self._model = model
        self._named = _named(model)
        self.at: dict[int, Tensor] = {}  # by position
        self.parameters: dict[int, tuple[str, str]] = {}  # fqn, and fqn of the module that owns it
        kinds = {kind for kind in set(map(type, functions)) if kind.__name__ == _LEAF}
        for i in [i for i, function in enumerate(functions) if type(function) in kinds]:
            leaf = getattr(functions[i], "variable", None)
            if leaf is None:
                continue
            self.at[i] = leaf
            named = self._named.get(id(leaf))
            if named is not None:
                self.parameters[i] = named

    def ledger(self, inputs: Iterable[Any]) -> SavedLedger:
        """Where what is kept for backward is booked, parameters and inputs apart."""
        tree = () if self._model is None else named_modules(self._model)
        own = [tensor for _, module, first in tree if first for tensor in list_own_tensors(module)]
        fed = list(tensors_in(list(inputs)))
        for i, leaf in self.at.items():
            (own if i in self.parameters or isinstance(leaf, nn.Parameter) else fed).append(leaf)
        kinds = {identity: "input" for tensor in fed for identity, _ in storages(tensor)}
        known = [tensor for tensor in own if not nn.parameter.is_lazy(tensor)]
        kinds |= {identity: "parameter" for tensor in known for identity, _ in storages(tensor)}
        return SavedLedger(kinds)


def _named(model: nn.Module | None) -> dict[int, tuple[str, str]]:
    """Name and module of each parameter by its identity, of a tied one the first; as
    `named_parameters()` has them, in a third of the time.
    """
    named: dict[int, tuple[str, str]] = {}
    seen: set[int] = set()  # ids: a module may have no hash
    stack = [("", model)] if model is not None else []
    while stack:
        prefix, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        before = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                named.setdefault(id(parameter), (before + name, prefix))
        if module._modules:
            stack += [
                (before + name, child)
                for name, child in reversed(module._modules.items())
                if child is not None
            ]
    for name, whole in list_unsharded(model) if model is not None else ():
        named.setdefault(id(whole), (name, name.rpartition(".")[0]))
    return named


def _makers(
    functions: Sequence[Any], edges: Sequence[Edge], leaves: _Leaves, trace: Trace | None
) -> tuple[Sequence[Maker], tuple[Call, ...], tuple[str, ...]]:
    if trace is None:
        makers = infer(functions, edges, leaves.parameters)
        return makers, (), inferred_note(makers)
    namer = Namer(trace)
    return namer.makers(numbers_of(functions)), namer.calls, tuple(_note_threads(trace))


def _note_threads(trace: Trace) -> Iterator[str]:
    """Each thread numbers its nodes by itself, so that the ranges of two threads overlap."""
    if any(call.thread for call in trace.calls):
        yield (
            "modules ran on several threads: a node may have the name of a module of another thread"
        )


# ---------------------------------------------------------------- nodes


class _Marks:
    """What is to be said of a node besides its shape, told once for each class of nodes."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        self.of_kinds: dict[type, tuple[str, str, tuple[str, ...], bool]] = {}
        self.hooked = {
            tensor.grad_fn
            for tensor in outputs
            if tensor.grad_fn is not None and tensor._backward_hooks
        }

    def of_kind(self, function: Any) -> tuple[str, str, tuple[str, ...], bool]:
        """(name, kind, marks, has metadata) of a node; remembered, unless its Python class stands
        for many kinds of C++ nodes.
        """
        name = function.name().rpartition("::")[2]
        kind = OPERATION
        if isinstance(function, torch.autograd.function.FunctionCtx):
            kind = CHECKPOINT if name == "CheckpointFunctionBackward" else CUSTOM
        marks = (
            ("view",)
            if is_view(name)
            else ("in-place", "view")
            if name == "CopySlices"
            else _NO_MARKS
        )
        found = (name, kind, marks, hasattr(function, "_input_metadata"))
        if type(function).__name__ == name:
            self.of_kinds[type(function)] = found
        return found


def _nodes(
    functions: Sequence[Any],
    leaves: _Leaves,
    makers: Sequence[Maker],
    marking: _Marks,
    ledger: SavedLedger | None,
) -> Iterator[Node]:
    """The nodes as data. It runs once a node, and most of the time of a walk goes by here: hence no
    calls that can be spared.
    """
    new, known, leaf_at, hooked = tuple.__new__, marking.of_kinds, leaves.at.get, marking.hooked
    sizes = ledger.sizes if ledger is not None else [0] * len(functions)
    told = ledger.marks if ledger is not None else dict[int, tuple[str, ...]]()
    for i, function in enumerate(functions):
        leaf = leaf_at(i)
        if leaf is not None:
            yield _leaf(i, leaf, leaves.parameters.get(i))
            continue
        name, kind, marks, has_metadata = known.get(type(function)) or marking.of_kind(function)
        shape: tuple[int, ...] | None = None
        dtype = ""
        if has_metadata and (metadata := function._input_metadata):
            first = metadata[0]
            dtype = dtype_name(first.dtype)
            try:
                shape = tuple(first.shape)
            except RuntimeError:  # nested tensors have none
                shape = None
            if len(metadata) > 1:
                marks = (*marks, f"{len(metadata)} outputs")
        if told and i in told:
            marks = (*marks, *told[i])
        module, call, source, inplace = makers[i]
        if inplace and "in-place" not in marks:
            marks = (*marks, "in-place")
        if hooked and function in hooked:
            marks = (*marks, "hook")
        size = sizes[i]
        yield new(Node, (i, name, kind, module, call, source, shape, dtype, None, size, marks, 1))


def _leaf(i: int, leaf: Tensor, named: tuple[str, str] | None) -> Node:
    fqn, module = named or (None, None)
    kind = PARAMETER if fqn is not None or isinstance(leaf, nn.Parameter) else INPUT
    marks = (
        ("hook",)
        if leaf._backward_hooks or getattr(leaf, "_post_accumulate_grad_hooks", None)
        else _NO_MARKS
    )
    return tuple.__new__(
        Node,
        (
            i,
            _LEAF,
            kind,
            module,
            0,
            "",
            tuple(leaf.shape),
            dtype_name(leaf.dtype),
            fqn,
            0,
            marks,
            1,
        ),
    )


def _notes(tensors: Sequence[Tensor], ledger: SavedLedger | None, *, saved: bool) -> Iterator[str]:
    cut = sum(not tensor.requires_grad for tensor in tensors)
    if not tensors:
        yield "the output holds no tensor"
    elif cut:
        yield f"{cut} of {len(tensors)} output tensors have no graph: they do not require grad"
    if saved and not READABLE:
        yield (
            "what is kept for backward was not read: torch 2.7 or later can be looked at without "
            "running unpack hooks"
        )
    elif ledger is not None and ledger.slots and not ledger.found:
        yield "a backward pass has freed what this graph had kept"
