"""What the expressions of the failing line were: names as they stood, calls as they were recorded.

A tensor that has no name on the line is known from the record: a stand-in on the meta device has
its shape, dtype and requires_grad. So `self.fc(self.pool(x).view(n, -1)).numpy()` has a value at
each of its calls.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cnnprobe import operations
from cnnprobe.crash.crash import Crash, find_once
from cnnprobe.crash.facts.frames import find_frames, read_names, walk_expression
from cnnprobe.crash.facts.source import evaluate
from cnnprobe.records.trace import ModuleCall, TensorInfo

_OPERATORS = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.MatMult: "matmul",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FailingLine:
    """The failing expression: its syntax tree, its names, and the recorded row of each call."""

    nodes: list[ast.AST]  # by level, the whole expression first
    names: dict[str, Any]
    rows: dict[int, ModuleCall] = field(default_factory=dict)  # by id of the node

    def find_row(self, node: ast.AST) -> ModuleCall | None:
        """The recorded call that an expression of the line made."""
        return self.rows.get(id(node))

    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression, or a stand-in for a tensor; None where it is not known."""
        if isinstance(node, ast.Tuple | ast.List):
            parts = [self.evaluate(part) for part in node.elts]
            return None if any(part is None for part in parts) else parts
        try:
            return evaluate(node, self.names, self._find_known)
        except Exception:  # what raised is the expression itself
            return None

    def _find_known(self, node: ast.expr) -> Any:
        if (row := self.find_row(node)) is not None:
            return _stand_in(row)
        if isinstance(node, ast.Attribute):
            value = self.evaluate(node.value)
            if isinstance(value, torch.Tensor):
                return value.shape if node.attr == "shape" else None
        return read_attribute(node, self.names)


@find_once
def read_failing_line(crash: Crash) -> FailingLine:
    """The failing expression of a crash with everything known of its parts."""
    return read_values(crash, walk_expression(crash.error))


def read_values(crash: Crash, nodes: list[ast.AST]) -> FailingLine:
    """The same of another expression, of which all parts have run just before the crash."""
    names, frames = read_names(crash.error), find_frames(crash.error)
    line = FailingLine(nodes=nodes, names=names)
    if not nodes or not frames:
        return line
    left = list(_rows_below(crash))
    names_of = {id(module): name for name, module in crash.modules.items()}
    # All parts have just run, so that the last rows are theirs.
    for node in reversed(list(_walk_as_run(nodes[0]))):
        key = _key_of_node(node, names, names_of)
        span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        places = [f"{frames[-1].filename}:{n}" for n in span]
        row = next(
            (r for r in reversed(left) if _key_of_row(r) == key and r.source in places), None
        )
        if row is not None:
            line.rows[id(node)] = row
            left.remove(row)
    return line


def _rows_below(crash: Crash) -> Iterator[ModuleCall]:
    """The rows of the function that raised, or that of the model where the loop has called it."""
    if crash.stage != "forward" or crash.call is None:
        yield from crash.trace.calls[:1]
        return
    above = crash.index if crash.call.fqn is not None and crash.leaf is None else crash.call.parent
    yield from (call for call in crash.trace.calls if call.parent == above)


def _walk_as_run(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that compute something, in the order in which Python runs them."""
    for child in ast.iter_child_nodes(node):
        yield from _walk_as_run(child)
    if isinstance(node, ast.Call | ast.BinOp | ast.Subscript):
        yield node


def _key_of_node(node: ast.expr, names: dict[str, Any], names_of: dict[int, str]) -> str:
    if isinstance(node, ast.BinOp):
        return _OPERATORS.get(type(node.op), "?")
    if not isinstance(node, ast.Call):
        return "getitem"
    called = read_attribute(node.func, names)
    if isinstance(called, nn.Module):
        return f"module {names_of.get(id(called), '?')}"
    return operations.resolve_name(ast.unparse(node.func).rpartition(".")[2])


def _key_of_row(row: ModuleCall) -> str:
    if row.fqn is not None:
        return f"module {row.fqn}"
    info = operations.find_function(row.kind)
    return info.mirrors or info.name if info is not None else operations.resolve_name(row.kind)


def read_attribute(node: ast.expr, names: dict[str, Any]) -> Any:
    """What a name or a path of attributes and items of modules stands for; None: not known.

    Only registries and plain attributes are read: no property of the user's runs.
    """
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        value = read_attribute(node.value, names)
        if isinstance(value, nn.Module):
            return _own_attribute(value, node.attr)
        return vars(value).get(node.attr) if type(value) is type(torch) else None
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return _get_item(read_attribute(node.value, names), node.slice.value)
    return None


def _get_item(value: Any, key: Any) -> Any:
    if isinstance(value, nn.Sequential | nn.ModuleList | nn.ModuleDict | list | dict | tuple):
        try:
            return value[key]
        except (LookupError, TypeError):
            return None
    return None


def _own_attribute(module: nn.Module, name: str) -> Any:
    for registry in (module._modules, module._parameters, module._buffers, module.__dict__):
        if name in registry:
            return registry[name]
    shared = inspect.getattr_static(type(module), name, None)
    return shared if isinstance(shared, dict | list | tuple | str | int | float) else None


def _stand_in(row: ModuleCall) -> Any:
    """What a recorded call returned: a tensor, or a tuple of them, nested as it was."""
    if not row.completed or not row.outputs:
        return None
    if len(row.outputs) == 1 and row.outputs[0].path == "":
        return _stand_in_tensor(row.outputs[0])
    return _nest([(re.findall(r"\[(\d+)\]", info.path), info) for info in row.outputs])


def _nest(parts: list[tuple[list[str], TensorInfo]]) -> Any:
    """Tensors by their paths: "[0]", "[1][0]", "[1][1]"."""
    if not all(path for path, _ in parts):
        return _stand_in_tensor(parts[0][1]) if len(parts) == 1 else None
    groups: dict[str, list[tuple[list[str], TensorInfo]]] = {}
    for path, info in parts:
        groups.setdefault(path[0], []).append((path[1:], info))
    count = max(int(key) for key in groups) + 1
    return tuple(_nest(groups[str(i)]) if str(i) in groups else None for i in range(count))


def _stand_in_tensor(info: TensorInfo) -> torch.Tensor:
    dtype = getattr(torch, info.dtype)
    if info.strides is None:
        made = torch.empty(info.shape, dtype=dtype, device="meta")
    else:
        made = torch.empty_strided(info.shape, info.strides, dtype=dtype, device="meta")
    return made.requires_grad_(info.requires_grad and (dtype.is_floating_point or dtype.is_complex))
