"""Finds torch functions whose result a statement of the user's drops: `x.masked_fill(mask, 0)`."""

import ast
import functools
import linecache
import re

import torch

from cnnprobe.diagnosis.evidence import Dropped, Flow, is_inplace
from cnnprobe.records.trace import ModuleCall, Trace

# Called for something else than their result: they wait for a device, check, or write statistics.
FOR_EFFECT = frozenset({"apply", "batch_norm", "cpu", "grad", "broadcast_tensors", "synchronize"})
_KIND = re.compile(r"torch\.(?:Tensor\.|nn\.functional\.)?([a-z]\w*)")
_STATEMENT = re.compile(r"\s*[\w.\[\], ]+\(")  # what a line begins with that may be a call alone
FUNCTIONS = ("torch", "F", "torch.nn.functional", "nn.functional")
LONGEST = 60  # characters of a statement that is repeated in full


def find_dropped(trace: Trace) -> tuple[Dropped, ...]:
    """The rows that nothing reads and that are a statement of their own, a line each once."""
    flow = Flow(trace)
    found: dict[tuple[str, str], Dropped] = {}
    for i in flow.primitives():
        call = flow.calls[i]
        name = _KIND.fullmatch(call.kind)
        if (
            name is None
            or not call.inputs
            or not call.outputs
            or flow.readers.get(i)
            or name[1] in FOR_EFFECT
            or is_inplace(trace, call)
        ):
            continue
        node = _find_statement(call, name[1])
        if node is not None:
            path = call.source.rpartition(":")[0]
            text = ast.get_source_segment("".join(linecache.getlines(path)), node) or ""
            found.setdefault((call.kind, call.source), _describe(i, node, text))
    return tuple(found.values())


def _find_statement(call: ModuleCall, name: str) -> ast.Call | None:
    """The call, where it is a whole statement and the only one on its line."""
    path, _, line = call.source.rpartition(":")
    if not line.isdigit() or not _STATEMENT.match(linecache.getline(path, int(line))):
        return None
    found = [n for n in _list_statements(path) if n.lineno <= int(line) <= (n.end_lineno or 0)]
    if len(found) != 1 or _writes(found[0]):
        return None
    return found[0] if [n for n in ast.walk(found[0]) if _name_called(n) == name] == found else None


@functools.lru_cache(maxsize=64)
def _list_statements(path: str) -> tuple[ast.Call, ...]:
    """The calls of a file that are statements; what is tried may be there for what it raises."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return ()
    bodies = [s for t in ast.walk(tree) if isinstance(t, ast.Try) for s in t.body]
    tried = {node for statement in bodies for node in ast.walk(statement)}
    return tuple(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node not in tried
    )


def _name_called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", "") or getattr(node.func, "id", "")


def _writes(call: ast.Call) -> bool:
    """Whether it may write to what it is given: out=, inplace=, or what ** brings."""
    return any(keyword.arg in (None, "out", "inplace") for keyword in call.keywords)


def _describe(row: int, node: ast.Call, text: str) -> Dropped:
    """What is said of a statement: with the variable that its result is meant for."""
    twin = f"{_name_called(node)}_"
    receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
    is_function = receiver is None or ast.unparse(receiver) in FUNCTIONS
    meant = (node.args[0] if node.args else None) if is_function else receiver
    is_plain = isinstance(meant, ast.Name | ast.Attribute)
    if len(text) > LONGEST or "\n" in text:
        text = f"{ast.unparse(node.func)}(...)"
    return Dropped(
        call=row,
        statement=text,
        variable=ast.unparse(meant) if is_plain and meant is not None else "",
        twin=twin if hasattr(torch.Tensor, twin) else "",
    )
