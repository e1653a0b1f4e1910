"""A tuple, a dict or None that the failing call got instead of a tensor, and what returned it."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe import operations
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.frames import read_arguments
from cnnprobe.crash.facts.methods import lacks_forward
from cnnprobe.crash.facts.values import FailingLine, read_failing_line
from cnnprobe.records.trace import ModuleCall


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What stands where a tensor was meant. `maker` is the recorded call that returned it."""

    value: Any
    name: str  # as it is written on the failing line; "" where a layer got it
    maker: ModuleCall | None
    receiver: int  # index of the outermost call that was handed None
    message: str  # who got what, in words


def find_arrival(crash: Crash) -> Arrival | None:
    """What the failing call got that is no tensor; None where it is nothing of the kind."""
    if (call := crash.call) is None or lacks_forward(crash.module):
        return None
    if (found := _read_layer(crash) if crash.leaf is not None else _read_line(crash)) is None:
        return None
    value, name, row = found
    if value is not None and any(value is given for given in (*crash.args, *crash.kwargs.values())):
        return None  # what the model itself was given
    what = "None" if value is None else _describe(value)
    if name:
        message = f"{name!r} is {what}, not a tensor"
    else:
        message = f"{crash.describe_call(call)} got {what} instead of a tensor"
    index, maker = _find_giver(crash) if value is None else (0, _find_maker(crash, value))
    return Arrival(value=value, name=name, maker=row or maker, receiver=index, message=message)


def _describe(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, tuple | list):
        return f"a {'list' if isinstance(value, list) else 'tuple'} of {len(value)}"
    return f"a {kind}"


def _read_layer(crash: Crash) -> tuple[Any, str, None] | None:
    """What a layer of torch's got, where it takes one tensor."""
    given = read_arguments(crash.error, crash.leaf)
    values = [*given[0], *given[1].values()] if given is not None else []
    forward = getattr(type(crash.leaf), "forward")  # noqa: B009 - `type` has none
    takes_one = len(inspect.signature(forward).parameters) == 2  # self, input
    is_stateful = isinstance(crash.leaf, nn.RNNBase | nn.MultiheadAttention)
    if not values or is_stateful or isinstance(values[0], Tensor):
        return None
    value = values[0]
    is_known = value is None or (takes_one and _holds_tensors(value))
    return (value, "", None) if is_known else None


def _holds_tensors(value: Any) -> bool:
    is_nested = isinstance(value, tuple | list | dict)
    return is_nested and any(isinstance(part, Tensor) for part in tree_leaves(value))


def _read_line(crash: Crash) -> tuple[Any, str, ModuleCall | None] | None:
    """What the failing line of the user's computes with that is no tensor."""
    if not isinstance(crash.error, AttributeError | TypeError):
        return None
    line = read_failing_line(crash)
    for node in list_operands(line):
        row, value = line.find_row(node), line.evaluate(node)
        is_none = isinstance(node, ast.Name) and line.names.get(node.id, node) is None
        is_none |= row is not None and row.returned == "NoneType"
        if is_none or (value is not None and _holds_tensors(value)):
            return None if is_none else value, ast.unparse(node), row
    return None


def list_operands(line: FailingLine) -> Iterator[ast.expr]:
    """What the failing expression takes for tensors: operands, the first argument, the receiver."""
    root = line.nodes[0] if line.nodes else None
    if isinstance(root, ast.BinOp):
        yield from (root.left, root.right)
    elif isinstance(root, ast.Attribute | ast.Subscript):
        yield root.value
    elif isinstance(root, ast.Call):
        if isinstance(root.func, ast.Attribute):
            yield root.func.value
        info = operations.find_function(ast.unparse(root.func).rpartition(".")[2])
        is_of_many = info is None or "sequence" in info.traits
        for argument in root.args[:1]:
            if isinstance(argument, ast.List | ast.Tuple):
                yield from argument.elts
            elif isinstance(argument, ast.Compare):
                yield argument.left
            elif not is_of_many:
                yield argument


def _find_maker(crash: Crash, value: Any) -> ModuleCall | None:
    """The outermost call that returned it, by type and shapes; of several, the last."""
    shapes = [tuple(t.shape) for t in tree_leaves(value) if isinstance(t, Tensor)]
    rows = [
        row
        for row in crash.trace.calls
        if row.completed
        and row.returned not in ("Tensor", "")
        and [t.shape for t in row.outputs] == shapes
    ]
    return min(reversed(rows), key=lambda row: row.depth, default=None)


def _find_giver(crash: Crash) -> tuple[int, ModuleCall | None]:
    """The outermost call that was handed None, and the module inside or beside it that gave it."""
    calls, index = crash.trace.calls, crash.index or 0
    gave = [c for c in calls if c.completed and c.fqn is not None and c.returned == "NoneType"]
    inner = [c for c in gave if c.parent == index]
    if crash.leaf is None and inner:
        return index, inner[-1]
    above = calls[index].parent
    while above is not None and None in calls[above].arguments.values():
        index, above = above, calls[above].parent
    return index, next((c for c in reversed(gave) if c.parent == above), None)
