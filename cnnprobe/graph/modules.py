"""The module view: module calls and torch functions of a recorded forward pass, and the tensors
that pass between them.

It comes from the recording and so stands also where autograd has built nothing: in eval, under
no_grad, for integers.
"""

from collections.abc import Iterator, Sequence

from cnnprobe.graph.graph import Graph
from cnnprobe.graph.nodes import FUNCTION, INPUT, MODULE, Call, Edge, Node
from cnnprobe.records.trace import ModuleCall, TensorInfo, Trace


def list_calls(trace: Trace) -> tuple[tuple[Call, ...], list[int]]:
    """The module calls of a trace, and for each of its rows the position of the innermost of them:
    -1 for none.
    """
    calls: list[Call] = []
    position: list[int] = []
    new = tuple.__new__
    for call in trace.calls:
        around = -1 if call.parent is None else position[call.parent]
        if call.fqn is None:
            position.append(around)
            continue
        position.append(len(calls))
        calls.append(
            new(
                Call,
                (call.fqn, call.index, call.kind, around if around >= 0 else None, call.source),
            )
        )
    return tuple(calls), position


def build_module_graph(trace: Trace) -> Graph:
    """Every row of the trace that has none below it as a node, the model's inputs as nodes before
    them.

    What a checkpointed segment ran again during backward is left out. A tensor from outside that is
    no input of the model (a constant, a tensor that was taken through NumPy) has no node: its user
    then has no edge at that input.
    """
    calls, position = list_calls(trace)
    shown = _list_rows(trace)
    inputs = _find_root_inputs(trace)
    ids = {row: len(inputs) + i for i, row in enumerate(shown)}
    nodes = [_make_input_node(i, info) for i, info in enumerate(inputs)]
    nodes += [
        _make_node(ids[row], trace.calls[row], calls[position[row]] if position[row] >= 0 else None)
        for row in shown
    ]
    edges = [
        edge for row in shown for edge in _list_edges(ids, row, trace.calls[row].inputs, inputs)
    ]
    return Graph(
        nodes=tuple(nodes),
        edges=tuple(edges),
        calls=calls,
        outputs=_list_outputs(trace, ids),
        title=trace.model,
        view="modules",
        notes=trace.notes,
    )


def _list_rows(trace: Trace) -> list[int]:
    parents = {call.parent for call in trace.calls if not call.recomputed}
    return [
        row for row, call in enumerate(trace.calls) if row not in parents and not call.recomputed
    ]


def _find_root_inputs(trace: Trace) -> tuple[TensorInfo, ...]:
    return (
        tuple(info for info in trace.calls[0].inputs if not isinstance(info.source, str))
        if trace.calls
        else ()
    )


def _make_input_node(i: int, info: TensorInfo) -> Node:
    return Node(i, f"input {info.path}".rstrip(), INPUT, shape=info.shape, dtype=info.dtype)


def _make_node(i: int, call: ModuleCall, owner: Call | None) -> Node:
    output = call.outputs[0] if call.outputs else None
    marks = ("failed",) if not call.completed else ()
    if len(call.outputs) > 1:
        marks = (*marks, f"{len(call.outputs)} outputs")
    return Node(
        i,
        call.kind,
        MODULE if call.fqn is not None else FUNCTION,
        owner.fqn if owner else None,
        owner.call if owner else 0,
        call.source,
        output.shape if output else None,
        output.dtype if output else "",
        marks=marks,
    )


def _list_edges(
    ids: dict[int, int], row: int, inputs: Sequence[TensorInfo], fed: Sequence[TensorInfo]
) -> Iterator[Edge]:
    for i, info in enumerate(inputs):
        start = (
            ids.get(info.source)
            if isinstance(info.source, int)
            else _find_fed(info, fed)
            if info.source is None
            else None
        )
        if start is not None and start < ids[row]:
            yield Edge(start, ids[row], i)


def _find_fed(info: TensorInfo, fed: Sequence[TensorInfo]) -> int | None:
    """Which input of the model this is: told by shape and dtype, since no tensor is kept that could
    be asked.
    """
    for i, given in enumerate(fed):
        if (given.shape, given.dtype) == (info.shape, info.dtype):
            return i
    return None


def _list_outputs(trace: Trace, ids: dict[int, int]) -> tuple[int, ...]:
    made = [info.source for info in trace.calls[0].outputs] if trace.calls else []
    return tuple(
        dict.fromkeys(ids[source] for source in made if isinstance(source, int) and source in ids)
    )
