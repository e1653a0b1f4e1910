"""Statements whose value nobody keeps: `x.view(2, -1)`, `self.pool(x)`, `x - self.fc(x)`."""

import ast
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.facts.methods import Method, open_method, open_source
from cnnprobe.crash.facts.source import WRITING
from cnnprobe.crash.facts.trees import list_nodes
from cnnprobe.recorder import sources


@dataclass(frozen=True, kw_only=True)
class Discarded:
    """A statement as it is written, and the assignment that was meant."""

    node: ast.Expr
    old: str
    new: str
    change: TextChange
    names: dict[str, Any] = field(default_factory=dict)  # what the loop's variables stand for

    @property
    def call(self) -> str:
        """The name of what it calls: "view"."""
        value = self.node.value
        call = value.right if isinstance(value, ast.BinOp) else value
        return ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""

    @property
    def is_method(self) -> bool:
        """Whether it calls a method of a tensor that writes nothing."""
        receiver = getattr(getattr(self.node.value, "func", None), "value", None)
        is_named = isinstance(receiver, ast.Name) and hasattr(Tensor, self.call)
        return is_named and not self.call.endswith("_") and self.call not in WRITING


def list_discarded(method: Method) -> Iterator[Discarded]:
    """Those of a method that work on its arguments or on what it has assigned."""
    try:
        file, function = open_method(method.function.__code__)
    except UnknownPlaceError:
        return
    names = {a.arg for a in function.args.args[1:]}
    stored = [n for n in list_nodes(function) if isinstance(n, ast.Name)]
    names |= {n.id for n in stored if isinstance(n.ctx, ast.Store)}
    yield from _read_statements(file, function, names)


def list_discarded_inputs(crash: Crash) -> Iterator[tuple[Discarded, int]]:
    """Those of the user's loop that work on an argument of the model, with its position."""
    for frame, line in traceback.walk_tb(crash.error.__traceback__):
        code, owner = frame.f_code, frame.f_locals.get("self")
        places = {
            name: i
            for name, value in frame.f_locals.items()
            for i, given in enumerate(crash.args)
            if value is given and isinstance(given, Tensor)
        }
        is_inside = any(owner is module for module in crash.modules.values())
        if not places or is_inside or not sources.is_users(code.co_filename):
            continue
        try:
            is_script = code.co_name == "<module>"
            source = open_source(code.co_filename) if is_script else None
            file, scope = (source, source.tree) if source is not None else open_method(code)
        except UnknownPlaceError:
            continue
        for one in _read_statements(file, scope, set(places)):
            if one.node.lineno < line and one.is_method:
                yield replace(one, names=dict(frame.f_locals)), places[one.new.partition(" ")[0]]


def _read_statements(file: File, scope: ast.AST, names: set[str]) -> Iterator[Discarded]:
    for node in list_nodes(scope):
        change = _find_change(file, node.value, names) if isinstance(node, ast.Expr) else None
        if change is not None and isinstance(node, ast.Expr):
            start, end = file.span(node)
            new = file.text[start : change.start] + change.text + file.text[change.end : end]
            yield Discarded(node=node, old=file.source(node.value), new=new, change=change)


def _find_change(file: File, value: ast.expr, names: set[str]) -> TextChange | None:
    """Where the assignment is to be written, and to which name; None where it is no such slip."""
    if isinstance(value, ast.BinOp) and isinstance(value.left, ast.Name):
        start, end = file.span(value.left)[1], file.span(value.right)[0]
        is_typo = isinstance(value.right, ast.Call) and value.left.id in names
        return TextChange(file.path, start, end, " = ") if is_typo else None
    if not isinstance(value, ast.Call):
        return None
    read = [n for n in ast.walk(value) if isinstance(n, ast.Name) and n.id in names]
    first = min(read, key=lambda n: (n.lineno, n.col_offset), default=None)
    start = file.span(value)[0]
    return None if first is None else TextChange(file.path, start, start, f"{first.id} = ")
