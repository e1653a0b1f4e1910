"""A result that is computed and dropped."""

import linecache
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    ARRANGING,
    NONLINEAR,
    NORMALISING,
    PROJECTIONS,
    Evidence,
    Flow,
    describe,
    is_inplace,
    operation,
)
from cnnprobe.diagnosis.evidence.questions import complete
from cnnprobe.diagnosis.evidence.texts import UnreadName
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying

KINDS = (
    NONLINEAR
    | PROJECTIONS
    | NORMALISING
    | {"dropout", "avg_pool", "add", "cat", "clamp", "flatten", "mul"}
) - {"softmax"}
ASSIGNMENT = re.compile(r"\s*[\w.,\[\] ]+ = [^=]")
ROUNDS = 2  # more calls of one line than these are taken for a loop


def _net(kept: bool) -> Mapping[str, Any]:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = self.fc1(x.flatten(1))
            if kept:
                x = F.relu(x)
            else:
                F.relu(x)
            return self.fc2(x)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """`F.relu(x)` without `x =`."""
    return _net(kept=False)


def healthy() -> Mapping[str, Any]:
    """`x = F.relu(x)`."""
    return _net(kept=True)


@rule(
    code="CP313",
    name="dead-output",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "missing-nonlinearity",
        "no-grad-params",
        "cannot-overfit",
        "redundant-bias",
        "future-seen",
    ),
)
def dead_output(evidence: Evidence) -> Iterator[Finding]:
    """A statement computes a new tensor and drops it: an activation, a mask, a layer.

    Why it matters: `F.relu(x)` and `scores.masked_fill(mask, -1e9)` give a new tensor; without
    `x =` the network goes on with the old one.
    What to do: assign the result, use the method that ends in `_`, or remove the call.
    Known exceptions: in-place calls, and those with out=; results that the model returns or keeps
    in an attribute; what is made of weights alone, as the average that a forward assigns to .data;
    what is handed to a layer that does not need it, as the time to the function of an ODE;
    statistics that are only looked at; what stands in a try; the last round of a loop, whose
    earlier results are read. A copy or a move that was not needed is info.
    Source: torch.nn.functional.relu returns its result; only relu_ writes to its argument.
    """
    trace = evidence.trace
    flow = Flow(trace)
    yield from _list_dropped(evidence, flow)
    if not complete(evidence):
        return
    named = {found.row: found for found in evidence.texts.unread if found.kind == "variable"}
    told = {flow.line(dropped.call) for dropped in evidence.dropped}
    returned = _returned(flow) | _list_handed(flow) | _list_weights(flow)
    losses = evidence.steps[0].losses if evidence.steps else ()
    nodes = frozenset().union(*(loss.nodes for loss in losses))
    returned |= {row for row, _ in evidence.steps[0].reads} if evidence.steps else set()
    rounds = _list_rounds(flow)
    for i in flow.primitives(KINDS):
        call = flow.calls[i]
        if i in rounds or (call.fqn is None and call.source in told):
            continue
        inside = flow.owner(i) is not None and not (call.fqn is not None and call.parent == 0)
        if (
            not inside
            or i in returned
            or flow.readers.get(i)
            or not call.outputs
            or is_inplace(trace, call)
        ):
            continue
        if losses and (
            call.sequence is None
            or not all(loss.complete for loss in losses)
            or any(n in nodes for n in range(*call.sequence))
        ):
            continue
        if (call.kind, call.source) in evidence.probes.held:
            continue
        told |= {call.source} - {""}
        lines = {found.source: found for found in named.values()}
        yield (
            _to_variable(call, flow.owner(i), lines[call.source])
            if call.source in lines
            else _to_finding(call, flow.owner(i))
        )
    yield from _list_variables(evidence, flow, named)


def _list_variables(
    evidence: Evidence, flow: Flow, named: Mapping[int | None, UnreadName]
) -> Iterator[Finding]:
    """The variables that hold what is made of the batch, and that the text never reads."""
    for row, found in named.items():
        call = flow.calls[row or 0]
        if operation(call) in KINDS and flow.owner(row) is not None:
            continue  # told as a row
        if is_inplace(evidence.trace, call) or row in _list_weights(flow):
            continue
        before = flow.before(row or 0)
        made = any(flow.calls[i].fqn is not None or flow.owner(i) for i in before)
        learnt = any(info.requires_grad for info in call.outputs)
        is_number = math.prod(call.outputs[0].shape) == 1
        is_seen = flow.owner(row) is None and (made or learnt or is_number)
        if is_seen and not found.is_argument:
            continue  # it may be there to be looked at
        yield _to_variable(call, flow.owner(row), found)


def _to_variable(call: ModuleCall, place: str | None, found: UnreadName) -> Finding:
    return Finding(
        module=place,
        severity=Severity.WARNING if place is None else None,
        message=(
            f"{found.function} computes {found.name} = {found.value}, of shape "
            f"{call.outputs[0].shape}, and nothing reads {found.name} afterwards"
        ),
        fix=f"use {found.name} where it was meant, in place of what is read there, or remove it",
        source=found.source,
        kind="variable",
        subject=found.name,
    )


def _to_finding(call: ModuleCall, place: str | None) -> Finding:
    name = call.kind if call.fqn is None else call.fqn
    spelled = ("" if call.fqn is None else "self.") + name.rpartition(".")[2]
    is_assigned = _is_assigned(call.source)
    return Finding(
        module=place,
        message=(
            f"the result of {describe(call)}, of shape {call.outputs[0].shape}, is read 0 "
            "times and not returned"
        ),
        fix=(
            f"assign it: x = {spelled}(x), or remove the call"
            if not is_assigned and not spelled.rpartition(".")[2].isdigit()
            else "use the result where it was meant, or remove the call"
        ),
        kind="assigned" if is_assigned else "",
        source=call.source,
        subject=describe(call),
    )


def _is_assigned(source: str) -> bool:
    """Whether the line begins a statement that assigns what it computes."""
    path, _, line = source.rpartition(":")
    text = linecache.getline(path, int(line)) if line.isdigit() else ""
    return ASSIGNMENT.match(text) is not None


def _list_dropped(evidence: Evidence, flow: Flow) -> Iterator[Finding]:
    """The statements whose code is known to drop what they compute."""
    for dropped in evidence.dropped:
        call = flow.calls[dropped.call]
        name = call.kind.rpartition(".")[2]
        variable, twin = dropped.variable, dropped.twin
        ways = [f"assign it: {variable or 'x'} = {dropped.statement}"]
        ways += [f"call {variable or 'x'}.{twin}"] if twin else []
        yield Finding(
            module=flow.owner(dropped.call),
            severity=Severity.INFO if _is_as_before(call) else None,
            message=(
                f"{dropped.statement} has no effect: {name} returns a new tensor, of shape "
                f"{call.outputs[0].shape}, and the statement drops it"
            ),
            fix=f"{', '.join(ways)}, or remove the statement",
            source=call.source,
            subject=describe(call),
        )


def _is_as_before(call: ModuleCall) -> bool:
    """Whether it only hands on a tensor of the same shape, dtype and device."""
    given, made = call.inputs[0], call.outputs[0]
    kinds = ARRANGING | {"to", "type", "float", "cuda", "clone", "detach"}
    return operation(call) in kinds and all(
        getattr(given, name) == getattr(made, name)
        for name in ("shape", "dtype", "device", "strides", "requires_grad")
    )


def _list_rounds(flow: Flow) -> set[int]:
    """The last of at least three calls of one kind on one line, where all others are read."""
    lines: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in flow.primitives(KINDS):
        lines[flow.calls[i].kind, flow.calls[i].source].append(i)
    return {
        rows[-1]
        for (_, source), rows in lines.items()
        if source and len(rows) > ROUNDS and all(flow.readers.get(row) for row in rows[:-1])
    }


def _list_handed(flow: Flow) -> set[object]:
    """What is an argument of a module that has rows below it, which may ignore it."""
    return {
        info.source
        for i, call in enumerate(flow.calls)
        if not flow.is_primitive[i]
        for info in call.inputs
    }


def _list_weights(flow: Flow) -> set[object]:
    """The rows without a gradient whose values come from parameters and buffers alone."""
    known = {parameter.fqn for parameter in flow.trace.parameters}
    made: set[object] = set()
    for i, call in enumerate(flow.calls):
        sources = [info.source for info in call.inputs]
        is_learnt = any(info.requires_grad for info in call.outputs)
        if sources and not is_learnt and all(s in made or s in known for s in sources):
            made.add(i)
    return made


def _returned(flow: Flow) -> set[object]:
    """What rows with rows below them hand out, to the loop or beside something that is read; a
    block of which nothing is read hands out nothing.
    """
    given: set[object] = set()
    for i, call in enumerate(flow.calls):
        if flow.is_primitive[i]:
            continue
        sources = {info.source for info in call.outputs}
        outside = call.parent is None or flow.owner(call.parent) is None
        if outside or any(isinstance(s, int) and flow.readers.get(s) for s in sources):
            given |= sources
    return given
