"""Where tensors are joined: along which dim, from which parts, and how that is written."""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cnnprobe import operations
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.frames import walk_expression
from cnnprobe.crash.facts.trees import parse_file
from cnnprobe.crash.facts.words import get_argument
from cnnprobe.records.trace import ModuleCall, TensorInfo

_DIMS = {"hstack": 1, "column_stack": 1, "vstack": 0, "dstack": 2}
_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.MatMult: "matmul",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cat:
    """A concatenation."""

    call: ModuleCall
    parts: tuple[TensorInfo, ...]
    dim: int | None  # where the sizes may differ; None: nowhere, it makes a new dim

    @property
    def uneven(self) -> list[int]:
        """The dims in which the parts differ; parts of several ranks differ in none."""
        ranks = {len(t.shape) for t in self.parts}
        dims = range(ranks.pop()) if len(ranks) == 1 else ()
        return [i for i in dims if len({t.shape[i] for t in self.parts}) > 1]

    @property
    def differing(self) -> list[int]:
        """Those in which they may not differ."""
        return [i for i in self.uneven if i != self.dim]


def read_cat(call: ModuleCall | None) -> Cat | None:
    """The concatenation that a call is, whatever its name; None where it is none."""
    info = operations.find(call) if call is not None and call.fqn is None else None
    if call is None or info is None or info.name not in ("cat", "stack", *_DIMS):
        return None
    parts = tuple(t for t in call.inputs if t.shape != (0,))  # torch skips those
    if len(parts) < 2 or not parts[0].shape:
        return None
    dim = _DIMS.get(info.name)
    if info.name == "cat":
        given = get_argument(call, 1, "dim")
        given = call.arguments.get("axis", 0) if given is None else given
        dim = given % len(parts[0].shape) if isinstance(given, int) else 0
    elif info.name == "hstack" and len(parts[0].shape) == 1:
        dim = 0
    return Cat(call=call, parts=parts, dim=dim)


def list_ancestors(crash: Crash, *tensors: TensorInfo) -> set[int]:
    """The rows of all calls that some tensors come from."""
    seen: set[int] = set()
    waiting = [t.source for t in tensors]
    while waiting:
        source = waiting.pop()
        if isinstance(source, int) and source not in seen:
            seen.add(source)
            waiting += [t.source for t in crash.trace.calls[source].inputs]
    return seen


def write_parts(crash: Crash, parts: Sequence[TensorInfo]) -> str:
    """(2, 4) from 'a' (Linear); (2, 8) from 'b' (Linear)."""
    return "; ".join(f"{t.shape} from {crash.describe_origin(t)}" for t in parts[:6])


def describe_output(crash: Crash, info: TensorInfo) -> str:
    """The output of 'a' (Linear), the input, the parameter 'w'."""
    is_made = isinstance(info.source, int)
    return (
        f"the output of {crash.describe_origin(info)}" if is_made else crash.describe_origin(info)
    )


def find_parts(crash: Crash, call: ModuleCall) -> dict[str, ast.expr]:
    """The expressions of the tensors of a call in the tree of its file, by their paths.

    There are none where they are not written out one by one, or stand beside others like them.
    """
    path, _, line = call.source.rpartition(":")
    if (tree := parse_file(path)) is None or not line.isdigit():
        return {}
    nodes = walk_expression(crash.error)[:1] if call is crash.call else ast.walk(tree)
    found = [
        parts
        for node in nodes
        if isinstance(node, ast.expr | ast.AugAssign)
        and node.lineno <= int(line) <= (node.end_lineno or node.lineno)
        and (parts := _read_parts(node, operations.resolve_name(call.kind)))
    ]
    if len(found) != 1 or any(isinstance(part, ast.Starred) for part in found[0]):
        return {}
    indices = [re.search(r"\[(\d+)\]$", t.path) for t in call.inputs]
    at = {t.path: int(i[1]) for t, i in zip(call.inputs, indices, strict=True) if i is not None}
    return {path: found[0][i] for path, i in at.items() if i < len(found[0])}


def _read_parts(node: ast.AST, name: str) -> list[ast.expr]:
    """The tensors of a concatenation, or of an operator, as they are written."""
    if isinstance(node, ast.BinOp) and _OPERATORS.get(type(node.op)) == name:
        return [node.left, node.right]
    if isinstance(node, ast.AugAssign) and _OPERATORS.get(type(node.op)) == name:
        return [node.target, node.value]
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
        return []
    called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    if operations.resolve_name(called) != name:
        return []
    first = node.args[0] if node.args else None
    if isinstance(first, ast.List | ast.Tuple):
        return first.elts
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    is_method = owner is not None and ast.unparse(owner) not in ("torch", "F", "nn.functional")
    return [owner, *node.args] if is_method and owner is not None else node.args
