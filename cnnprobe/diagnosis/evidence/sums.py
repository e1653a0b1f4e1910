"""A loss as the sum that it is: the rows of the sum, its terms, and the constants in it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.evidence import Step
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import operation
from cnnprobe.diagnosis.evidence.loss_terms import KEEPING
from cnnprobe.records.trace import ModuleCall, TensorInfo

ADDING = frozenset({"add", "sub", "rsub", "stack", "cat"})
HANDING = KEEPING | {"mul", "div", "neg"}  # with a single input that counts
CUTS = frozenset({"detach", "data"})
FEW = 64  # values of a tensor that still counts as a few losses, and not as an output


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """What is added to a loss and has no gradient: a tensor, or a Python number."""

    index: int  # the row that adds it, or makes a tensor of the number
    info: TensorInfo | None = None
    number: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """The rows of a sum, down to those that make its terms, and its constants."""

    rows: frozenset[int]
    terms: tuple[int, ...]
    constants: tuple[Constant, ...]


def read_sum(flow: Flow, end: int) -> Sum:
    """The sum that a row is the end of."""
    rows: set[int] = set()
    terms: list[int] = []
    constants: list[Constant] = []
    stack: list[int | None] = [end]
    while stack:
        index = stack.pop()
        if index is None or index in rows:
            continue
        rows.add(index)
        parts = _find_parts(flow, index)
        stack.extend(flow.producer(info) for info in parts if info.requires_grad)
        if parts and operation(flow.calls[index]) in ADDING:
            constants.extend(_list_constants(flow, index))
        if not any(info.requires_grad for info in parts):
            terms.append(index)
    return Sum(rows=frozenset(rows), terms=tuple(terms), constants=tuple(constants))


def is_few(info: TensorInfo) -> bool:
    """Whether a tensor holds one loss, or a few."""
    return len(info.shape) < 2 and math.prod(info.shape) <= FEW and "float" in info.dtype


def _find_parts(flow: Flow, index: int) -> list[TensorInfo]:
    """What a row adds up or multiplies by a number; empty where it computes something else."""
    call = flow.calls[index]
    kind = operation(call)
    if kind in ADDING:
        return list(call.inputs) if all(map(is_few, call.inputs)) else []
    live = [info for info in call.inputs if info.requires_grad]
    return live if kind in HANDING and len(live) == 1 and is_few(live[0]) else []


def _list_constants(flow: Flow, index: int) -> Iterator[Constant]:
    call = flow.calls[index]
    yield from _list_numbers(call, index)
    for info in call.inputs:
        made = flow.producer(info)
        if not info.requires_grad:
            yield Constant(index=index, info=info)
            if made is not None and operation(flow.calls[made]) in ("tensor", "as_tensor"):
                yield from _list_numbers(flow.calls[made], made)


def _list_numbers(call: ModuleCall, index: int) -> Iterator[Constant]:
    for path, value in call.arguments.items():
        if isinstance(value, float) and path != "alpha":
            yield Constant(index=index, number=value)


def find_source(flow: Flow, index: int) -> tuple[list[int], int | None]:
    """From a constant's row back to what it is a multiple of: the rows on the way, and the row at
    whose end stands a gradient; None where none stands there.
    """
    path = [index]
    while True:
        call = flow.calls[path[-1]]
        live = next((info for info in call.inputs if info.requires_grad), None)
        if live is not None:
            return path, flow.producer(live)
        kind = operation(call)
        inside = [i for i in map(flow.producer, call.inputs) if i is not None and i not in path]
        if kind not in HANDING | CUTS | ADDING or not inside:
            return path, None
        path.append(inside[0])


def is_loss(flow: Flow, index: int) -> bool:
    """Whether a row of the loop gives one number with a graph."""
    call = flow.calls[index]
    made = call.outputs[0] if len(call.outputs) == 1 else None
    return (
        call.fqn is None
        and made is not None
        and made.requires_grad
        and any(info.requires_grad for info in call.inputs)
        and math.prod(made.shape) == 1
        and flow.owner(index) is None
    )


def is_reached(call: ModuleCall, nodes: frozenset[int]) -> bool:
    """Whether a graph holds a node that the row made."""
    return call.sequence is not None and any(n in nodes for n in range(*call.sequence))


def list_reached(steps: tuple[Step, ...]) -> frozenset[int] | None:
    """The nodes that any backward or torch.autograd.grad went through; None: not all are known."""
    if not all(loss.complete for step in steps for loss in step.losses):
        return None
    graphs = [loss.nodes for step in steps for loss in step.losses]
    graphs += [step.uses.differentiated for step in steps if step.uses is not None]
    return frozenset().union(*graphs)
