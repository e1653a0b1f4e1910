"""Which parameters cannot get a gradient, told before any backward pass, and where the path to them
is cut.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnnprobe.graph.graph import Graph
from cnnprobe.operations import OperationInfo, find_function
from cnnprobe.records.trace import ModuleCall, ParameterInfo, Trace

_WHOLE_NUMBERS = ("int", "uint", "bool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A parameter that the outputs do not depend on as far as autograd knows, and what stands
    between.
    """

    parameter: str  # fqn
    # "frozen" | "never used" | "detach" | "no grad" | "integers" | "not used further" |
    # "overwritten" | "not in the output"
    why: str
    module: str | None = None  # fqn of the module call in which the path ends
    operation: str = ""  # class of the module, or function, at which it ends
    source: str = ""  # the user's line

    def __str__(self) -> str:
        where = f" in '{self.module}'" if self.module else ""
        line = f" at {self.source}" if self.source else ""
        return (
            f"{self.parameter}: "
            f"{_SENTENCES[self.why].format(operation=self.operation, where=where, line=line)}"
        )


_SENTENCES = {
    "frozen": "its requires_grad is False",
    "never used": "no recorded operation uses it",
    "detach": "{operation}{where}{line} detaches its result from the graph",
    "no grad": "{operation}{where}{line} ran under no_grad",
    "integers": "{operation}{where}{line} returns integers, which have no gradient",
    "not used further": (
        "the result of {operation}{where}{line} is not used by any recorded operation"
    ),
    "overwritten": "the result of {operation}{where}{line} is overwritten in place",
    "not in the output": "the result of {operation}{where}{line} is not among the given outputs",
}


def find_unreached(graph: Graph, trace: Trace) -> tuple[Cut, ...]:
    """The parameters of the recorded model that no path of the graph reaches, in the order of the
    model.

    Args:
        graph: autograd's graph behind the loss or the outputs.
        trace: the forward pass that made them.
    """
    reached = {node.parameter for node in graph.nodes if node.parameter is not None}
    missing = [
        p for p in trace.parameters if p.kind == "parameter" and not reached & {p.fqn, *p.aliases}
    ]
    if not missing:
        return ()
    users = _map_users(trace)
    ends = _find_ends(trace)
    return tuple(_find_cut(parameter, trace, users, ends) for parameter in missing)


def _map_users(trace: Trace) -> Mapping[str, list[int]]:
    """Rows that use each parameter: calls of the module that owns it, and functions that are given
    it.
    """
    owners = {parameter: module.fqn for module in trace.modules for parameter in module.parameters}
    rows_of: dict[str, list[int]] = {}
    found: dict[str, list[int]] = {}
    parents = {call.parent for call in trace.calls}
    for row, call in enumerate(trace.calls):
        if call.recomputed:
            continue
        if call.fqn is not None and row not in parents:
            rows_of.setdefault(call.fqn, []).append(row)
        for info in call.inputs:
            if isinstance(info.source, str):
                found.setdefault(info.source, []).append(row)
    for parameter, module in owners.items():
        found.setdefault(parameter, []).extend(rows_of.get(module, ()))
    return found


End = tuple[str, int]  # why, and the row at which a path ends


def _find_ends(trace: Trace) -> list[End | None]:
    """For each row, where the path from its result ends; None: at an output of the model."""
    users: dict[int, list[int]] = {}
    for row, call in enumerate(trace.calls):
        for info in call.inputs:
            if isinstance(info.source, int) and info.source < row:
                users.setdefault(info.source, []).append(row)
    parents = {call.parent for call in trace.calls}
    outputs = {info.source for info in trace.calls[0].outputs} if trace.calls else set()
    ends: list[End | None] = [None] * len(trace.calls)
    for row in range(len(trace.calls) - 1, -1, -1):
        call = trace.calls[row]
        inner = [user for user in users.get(row, ()) if user not in parents]
        if call.outputs and not any(info.requires_grad for info in call.outputs):
            ends[row] = (_find_reason(call), row)
        elif row in outputs:
            ends[row] = None
        elif not inner:
            ends[row] = ("not used further", row)
        else:
            found = [ends[user] for user in inner]
            ends[row] = None if None in found else found[0]
    return ends


def _find_reason(call: ModuleCall) -> str:
    info = find_function(call.kind) if call.fqn is None else None
    if info is not None and info.name in ("detach", "data"):
        return "detach"
    if (info is not None and _is_choice(info)) or all(
        output.dtype.startswith(_WHOLE_NUMBERS) for output in call.outputs
    ):
        return "integers"
    return "overwritten" if info is not None and info.effect == "fills" else "no grad"


def _is_choice(info: OperationInfo) -> bool:
    """Whether it has no derivative, whatever the dtype of its result."""
    return bool(info.traits & {"cuts", "flat"}) and info.effect not in ("makes", "fills")


def _find_cut(
    parameter: ParameterInfo,
    trace: Trace,
    users: Mapping[str, Sequence[int]],
    ends: Sequence[End | None],
) -> Cut:
    if not parameter.trainable:
        return Cut(parameter=parameter.fqn, why="frozen")
    rows = sorted(
        {row for name in (parameter.fqn, *parameter.aliases) for row in users.get(name, ())}
    )
    if not rows:
        return Cut(parameter=parameter.fqn, why="never used")
    end = next((ends[row] for row in rows if ends[row] is not None), None) or (
        "not in the output",
        rows[-1],
    )
    why, row = end
    call = trace.calls[row]
    module = next(_list_modules_around(trace, row), None)
    return Cut(
        parameter=parameter.fqn, why=why, module=module, operation=call.kind, source=call.source
    )


def _list_modules_around(trace: Trace, row: int | None) -> Iterator[str]:
    while row is not None:
        fqn = trace.calls[row].fqn
        if fqn is not None:
            yield fqn
        row = trace.calls[row].parent
