"""Where a None on the failing line came from, as far as the user's code tells."""

import ast
import difflib
import os
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, default_collate

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import find_definition, replace_expression
from cnnprobe.crash.facts.frames import find_assigned_value, is_users, list_frames
from cnnprobe.crash.facts.loops import list_loops
from cnnprobe.crash.facts.members import read_expression
from cnnprobe.crash.facts.source import parse, returns_nothing
from cnnprobe.crash.facts.values import FailingLine, read_attribute, read_failing_line
from cnnprobe.crash.facts.words import shorten

_MOST_KEYS = 4  # of a dict that are shown


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Why an expression is None."""

    node: ast.expr
    reason: str
    edit: Edit | None = None

    @property
    def message(self) -> str:
        """The expression and the reason in one sentence."""
        return f"{ast.unparse(self.node)} is None: {self.reason}"


def find_none(crash: Crash) -> Origin | None:
    """The part of the failing expression that is None, with where it came from; None: unknown."""
    line, error = read_failing_line(crash), crash.error
    for node in line.nodes:
        if isinstance(node, ast.Attribute) and isinstance(error, AttributeError):
            is_it = error.obj is None and error.name == node.attr
            parts = [node.value] if is_it else []
        else:
            parts = [part for part in _list_parts(node) if _is_none(line, part)]
        for part in parts:
            if (found := trace_none(crash, part)) is not None:
                return found
    return None


def find_none_argument(crash: Crash) -> Origin | None:
    """The argument of a call on the failing line that is None."""
    line = read_failing_line(crash)
    for node in line.nodes:
        parts = node.args if isinstance(node, ast.Call) else []
        for part in parts:
            if _is_none(line, part) and (found := trace_none(crash, part)) is not None:
                return found
    return None


def _list_parts(node: ast.AST) -> list[ast.expr]:
    """What an expression calls, indexes, iterates or computes with."""
    match node:
        case ast.Call():
            return [node.func, *node.args]
        case ast.Subscript():
            return [node.value]
        case ast.BinOp():
            return [node.left, node.right]
        case ast.Name(ctx=ast.Load()):
            return [node]
    return []


def _is_none(line: FailingLine, node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return node.id in line.names and line.names[node.id] is None
    if isinstance(node, ast.Attribute):
        owner = line.names.get(node.value.id) if isinstance(node.value, ast.Name) else None
        held = getattr(owner, "__dict__", {})
        return node.attr in held and held[node.attr] is None
    if not isinstance(node, ast.Call):
        return False
    function = read_attribute(node.func, line.names)
    is_plain = isinstance(function, types.FunctionType)
    return (is_plain and returns_nothing(function)) or _find_missing_key(line, node) is not None


def trace_none(crash: Crash, node: ast.expr) -> Origin | None:
    """Where an expression that is None came from."""
    line = read_failing_line(crash)
    if isinstance(node, ast.Name):
        value = find_assigned_value(crash.error, node.id)
        for trace in (_trace_value, _trace_target, _trace_parameter):
            if (found := trace(crash, node, value)) is not None:
                return found
        return None
    if isinstance(node, ast.Call):
        return _trace_call(crash, line, node)
    if isinstance(node, ast.Attribute) and _is_none(line, node):
        owner = type(line.names[node.value.id]).__name__  # type: ignore[attr-defined]
        return Origin(node=node, reason=f"the {owner} was made without it, or set it to None")
    return None


def _trace_value(crash: Crash, node: ast.Name, value: ast.expr | None) -> Origin | None:
    """A name that was assigned."""
    if value is None:
        return None
    if isinstance(value, ast.Constant) and value.value is None:
        return Origin(node=node, reason=f"it was set to None at line {value.lineno}")
    found = trace_none(crash, value) if isinstance(value, ast.Call) else None
    return None if found is None else Origin(node=node, reason=found.reason, edit=found.edit)


def _trace_target(crash: Crash, node: ast.Name, value: ast.expr | None) -> Origin | None:
    """A name that a loop over a loader fills."""
    line = read_failing_line(crash)
    for loop in list_loops(crash) if value is None else ():
        names = [n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)]
        collate = _find_collate(line, loop.iterable) if node.id in names else None
        if collate is None:
            continue
        code = collate.__code__
        place = f"{shorten(code.co_filename)}:{code.co_firstlineno}"
        title = f"return the labels from {collate.__name__}, or leave out what needs {node.id}"
        return Origin(
            node=node,
            reason=f"{collate.__name__} at {place} puts None there",
            edit=Advice(title=title),
        )
    return None


def _find_collate(line: FailingLine, iterable: ast.expr) -> types.FunctionType | None:
    """The collate function of the user's own that a loop's loader has."""
    for node in ast.walk(iterable):
        given: Any = None
        if isinstance(node, ast.keyword) and node.arg == "collate_fn":
            given = read_attribute(node.value, line.names)
        elif isinstance(node, ast.Name) and isinstance(line.names.get(node.id), DataLoader):
            given = line.names[node.id].collate_fn
        if isinstance(given, types.FunctionType) and given is not default_collate:
            return given
    return None


def _trace_parameter(crash: Crash, node: ast.Name, value: ast.expr | None) -> Origin | None:
    """A parameter of the user's function that kept its default, or was passed as None."""
    frames = [frame for frame in list_frames(crash.error) if is_users(frame)]
    code = frames[-1].f_code if frames else None
    if code is None or value is not None or node.id not in code.co_varnames[: code.co_argcount]:
        return None
    if node.id in ("self", "cls"):
        return None
    function = f"{code.co_name}()"
    reason = f"{function} was called without {node.id}, or with None"
    return Origin(node=node, reason=reason, edit=Advice(title=f"pass {node.id} to {function}"))


# -- calls -----------------------------------------------------------------------------------------


def _trace_call(crash: Crash, line: FailingLine, node: ast.Call) -> Origin | None:
    function = read_attribute(node.func, line.names)
    if isinstance(function, types.FunctionType) and returns_nothing(function):
        shown = f"{ast.unparse(node.func)}()"
        edit = Advice(
            title=f"end {shown} with a return" + _show_last(function),
            written=lambda: _add_return(function.__code__),
        )
        return Origin(node=node, reason=f"{shown} has no return", edit=edit)
    if (missing := _find_missing_key(line, node)) is not None:
        return _explain_key(crash, node, *missing)
    if ast.unparse(node.func).rpartition(".")[2] == "imread" and node.args:
        return _explain_image(line, node)
    return None


def _show_last(function: types.FunctionType) -> str:
    tree = parse(function)
    last = tree.body[-1] if tree is not None else None
    is_value = isinstance(last, ast.Expr) and not isinstance(last.value, ast.Constant)
    return f": return {ast.unparse(last.value)}" if is_value else ""  # type: ignore[union-attr]


def _add_return(code: types.CodeType) -> list[TextChange]:
    file, function = find_definition(code)
    last = function.body[-1]
    if not isinstance(last, ast.Expr) or isinstance(last.value, ast.Constant):
        raise UnknownPlaceError
    start = file.span(last)[0]
    return [TextChange(file.path, start, start, "return ")]


def _find_missing_key(line: FailingLine, node: ast.Call) -> tuple[Any, Any] | None:
    """The dict and the key of d.get(key), where it has no such key."""
    match node:
        case ast.Call(func=ast.Attribute(value=owner, attr="get"), args=[ast.Constant(value=key)]):
            held = read_attribute(owner, line.names)
            return (held, key) if isinstance(held, dict) and key not in held else None
    return None


def _explain_key(crash: Crash, node: ast.Call, held: dict[Any, Any], key: Any) -> Origin:
    owner = ast.unparse(node.func.value)  # type: ignore[attr-defined]
    keys = [each for each in held if isinstance(each, str)]
    near = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.6)
    shown = ", ".join(map(repr, keys[:_MOST_KEYS])) + (", ..." if len(keys) > _MOST_KEYS else "")
    edit = None
    if near:
        text = f"{owner}[{near[0]!r}]"
        written = replace_expression(crash.error, node, text)
        title = f"write {text} instead of {ast.unparse(node)}"
        edit = Advice(title=title, code=text, written=written)
    reason = f"{owner} has no key {key!r}, its keys are {shown or 'none'}"
    return Origin(node=node, reason=reason, edit=edit)


def _explain_image(line: FailingLine, node: ast.Call) -> Origin:
    """cv2.imread gives None, and does not raise, where there is no image."""
    path = _read_path(line, node.args[0])
    shown, reader = f" {path!r}" if path else "", ast.unparse(node.func)
    if path and not Path(path).exists():
        reason = f"{reader} gives None where there is no file: {path!r}"
        title = f"correct the path; the program runs in {str(Path.cwd())!r}"
    else:
        reason = f"{reader} gives None where it cannot read the image{shown}"
        title = "leave out the files that are no images"
    return Origin(node=node, reason=reason, edit=Advice(title=title))


def _read_path(line: FailingLine, node: ast.expr) -> str:
    value = read_expression(line, node)
    return os.fspath(value) if isinstance(value, str | os.PathLike) else ""
