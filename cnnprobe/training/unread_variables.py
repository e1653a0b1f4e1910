"""Finds variables of the user's functions that are given a tensor and never read."""

import ast
import re
from collections.abc import Iterable, Iterator

from cnnprobe.diagnosis.evidence import Flow
from cnnprobe.diagnosis.evidence.texts import UnreadName
from cnnprobe.records.trace import TensorInfo
from cnnprobe.training.sourcing import (
    DYNAMIC,
    FunctionText,
    list_blocks,
    list_loads,
    name_of,
)

LONGEST = 60  # characters of an expression that is repeated in full
_SKIP = re.compile(r"resid|identity|short_?cut|skip|orig|^res$")
_JOINING = frozenset({"add", "sub", "cat", "mul"})
_WORKING = frozenset({"backward", "step", "append", "update", "add_"})  # called for their effect


def find_unread_variables(functions: Iterable[FunctionText], flow: Flow) -> Iterator[UnreadName]:
    """The variables of which nothing reads what they hold, with the row that computed it."""
    functions = list(functions)
    helpers = {f.node.name: f for f in functions if not f.owner}
    for function in functions:
        yield from _list_variables(function, flow, helpers)
        yield from _list_skips(function, flow)


def _list_variables(
    function: FunctionText, flow: Flow, helpers: dict[str, FunctionText]
) -> Iterator[UnreadName]:
    if any(name_of(n) in DYNAMIC for n in ast.walk(function.node)):
        return
    for statement, name in list_unread_statements(function.node):
        row = _find_row(function, statement, flow)
        if row is None:
            row = _find_row_within(statement, flow, helpers)
        if row is not None:
            text = ast.unparse(statement.value)
            yield UnreadName(
                kind="variable", name=name, function=function.name,
                source=f"{function.path}:{statement.lineno}", module=flow.owner(row),
                value=text if len(text) <= LONGEST else f"{text[:LONGEST]}...", row=row,
                is_argument=_is_last_of_argument(function.node, statement, name),
            )  # fmt: skip


def _list_skips(function: FunctionText, flow: Flow) -> Iterator[UnreadName]:
    """The inputs that a forward keeps under the name of a skip connection, and that neither it nor
    what calls it joins to what it makes.
    """
    arguments = {a.arg for a in function.node.args.args}
    row = next((i for i, c in enumerate(flow.calls) if c.fqn in function.modules), None)
    if row is None or function.node.name != "forward":
        return
    given = [t for t in flow.calls[row].inputs if t.shape]
    for statement, name in list_unread_statements(function.node):
        kept = statement.value.id if isinstance(statement.value, ast.Name) else ""
        if kept in arguments and _SKIP.search(name.lower()) and not _is_joined(flow, row, given):
            yield UnreadName(
                kind="skip", name=name, function=function.name,
                source=f"{function.path}:{statement.lineno}", module=flow.calls[row].fqn,
                value=kept, row=row,
            )  # fmt: skip


def _is_joined(flow: Flow, row: int, given: list[TensorInfo]) -> bool:
    """Whether an input of a row is added to something, in it or beside it."""
    return any(
        t.source == g.source and t.shape == g.shape
        for i in flow.primitives(_JOINING)
        for t in flow.calls[i].inputs
        for g in given
        if i > row
    )


def _is_last_of_argument(node: ast.FunctionDef, statement: ast.Assign, name: str) -> bool:
    """Whether a statement is all that reads an argument, and gives it anew."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    own = {id(n) for n in list_loads(statement.value, name)}
    read = {id(n) for n in list_loads(node, name)}
    return bool(own) and own == read and name in {a.arg for a in arguments}


def list_unread_statements(node: ast.FunctionDef) -> Iterator[tuple[ast.Assign, str]]:
    r"""The assignments to a variable that nothing reads: at all, in what follows, or before the
    next statement of the same block that assigns to it. An inner function may read it at any time.

    >>> text = "def f(x):\n    y = x + 1\n    z = x\n    z = x * 2\n    return z"
    >>> [name for _, name in list_unread_statements(ast.parse(text).body[0])]
    ['y', 'z']
    """
    shared = {
        n for s in ast.walk(node) if isinstance(s, ast.Global | ast.Nonlocal) for n in s.names
    }
    inner = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.Lambda)][1:]
    shared |= {n.id for f in inner for n in ast.walk(f) if isinstance(n, ast.Name)}
    for block in list_blocks(node):
        for place, statement in enumerate(block):
            name = _assigned(statement)
            if not name or name.startswith("_") or name in shared:
                continue
            assert isinstance(statement, ast.Assign)  # noqa: S101  (_assigned said so)
            following = block[place + 1 :]
            last = block is node.body and not any(list_loads(s, name) for s in following)
            if not list_loads(node, name) or last or _is_overwritten(following, name):
                yield statement, name


def _assigned(statement: ast.stmt) -> str:
    """The one variable that a statement assigns to."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        return target.id if isinstance(target, ast.Name) else ""
    return ""


def _is_overwritten(following: list[ast.stmt], name: str) -> bool:
    for statement in following:
        if _assigned(statement) == name:
            return not list_loads(statement, name)
        if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(statement)):
            return False
        if isinstance(statement, ast.Return | ast.Raise | ast.Continue | ast.Break):
            return False
    return False


def _find_row(function: FunctionText, statement: ast.Assign, flow: Flow) -> int | None:
    """The row of the statement's own value, where no row reads it."""
    lines = {
        f"{function.path}:{line}"
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    }
    rows = [i for i in flow.primitives() if flow.calls[i].source in lines]
    if not rows or not flow.calls[rows[-1]].outputs:
        return None
    return None if flow.readers.get(rows[-1]) else rows[-1]


def _find_row_within(
    statement: ast.Assign, flow: Flow, helpers: dict[str, FunctionText]
) -> int | None:
    """The row that a function of the user's, which the statement calls, gives and nothing reads."""
    call = statement.value
    helper = helpers.get(getattr(call.func, "id", "")) if isinstance(call, ast.Call) else None
    if helper is None or any(name_of(n) in _WORKING for n in ast.walk(helper.node)):
        return None
    first, last = helper.node.lineno, helper.node.end_lineno or helper.node.lineno
    for i in flow.primitives():
        path, _, line = flow.calls[i].source.rpartition(":")
        inside = path == helper.path and line.isdigit() and first <= int(line) <= last
        if inside and flow.calls[i].outputs and not flow.readers.get(i):
            return i
    return None
