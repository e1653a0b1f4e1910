"""The frames of an exception: which values stood on the failing line."""

import ast
import functools
import inspect
import linecache
import textwrap
import traceback
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from cnnprobe.recorder import sources


def find_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The user's frames of a traceback, outermost first."""
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if sources.is_users(frame.filename)
    ]


def read_locals(error: BaseException) -> dict[str, Any]:
    """The local variables of the user's innermost frame."""
    found: dict[str, Any] = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if sources.is_users(frame.f_code.co_filename):
            found = frame.f_locals
    return dict(found)


def read_names(error: BaseException) -> dict[str, Any]:
    """The variables that the user's innermost frame can read: its locals and globals."""
    found: dict[str, Any] = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if sources.is_users(frame.f_code.co_filename):
            found = {**frame.f_globals, **frame.f_locals}
    return found


def read_frame(error: BaseException, filename_end: str, function: str) -> dict[str, Any] | None:
    """The local variables of the outermost frame of a function of torch's, by the end of its file's name."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == function and frame.f_code.co_filename.replace(
            "\\", "/"
        ).endswith(filename_end):
            return dict(frame.f_locals)
    return None


def read_arguments(
    error: BaseException, module: nn.Module | None
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What a module was called with when it raised, from torch's own frame of the call; the latest where it was called within itself."""
    code = inspect.unwrap(nn.Module._call_impl).__code__
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is code and frame.f_locals.get("self") is module:
            found = frame.f_locals.get("args", ()), frame.f_locals.get("kwargs", {})
    return found


def list_names(error: BaseException) -> list[str]:
    """The names that are read in the failing expression, in order."""
    return [node.id for node in walk_expression(error) if isinstance(node, ast.Name)]


def list_data(error: BaseException) -> list[str]:
    """The names that are read in the failing expression and not called in it."""
    nodes = walk_expression(error)
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return [node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called]


def list_calls(error: BaseException) -> list[ast.Call]:
    """The calls in the failing expression."""
    return [node for node in walk_expression(error) if isinstance(node, ast.Call)]


def find_cut(error: BaseException, names: Collection[str]) -> tuple[str, int] | None:
    """The call, of a function of one of these names, on the way to what the failing line reads, with its line: as far as assignments tell."""
    frames = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if sources.is_users(frame.f_code.co_filename)
    ]
    if not frames:
        return None
    code, last = frames[-1].f_code, find_frames(error)[-1].lineno or 0
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):
        return None
    ast.increment_lineno(tree, max(first, 1) - 1)
    wanted = set(list_names(error))
    assigned = [
        node for node in ast.walk(tree) if isinstance(node, ast.Assign) and node.lineno <= last
    ]
    for node in sorted(assigned, key=lambda one: -one.lineno):
        targets = {
            n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)
        }
        if not targets & wanted:
            continue
        for call in (n for n in ast.walk(node.value) if isinstance(n, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if name in names and _reads_a_result(
                call, {**frames[-1].f_globals, **frames[-1].f_locals}
            ):
                return name, call.lineno
        wanted = (wanted - targets) | {
            n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)
        }
    return None


def _reads_a_result(call: ast.Call, values: Mapping[str, Any]) -> bool:
    """Whether a call works on what a model gives, or on a tensor with a graph, rather than on data."""
    parts = [*call.args, *([call.func.value] if isinstance(call.func, ast.Attribute) else [])]
    found = [values.get(n.id) for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)]
    return any(
        isinstance(v, nn.Module) or (isinstance(v, torch.Tensor) and v.requires_grad) for v in found
    )


def list_called(error: BaseException) -> list[str]:
    """The attributes of `self` that the failing expression calls."""
    functions = [node.func for node in walk_expression(error) if isinstance(node, ast.Call)]
    return [
        f.attr
        for f in functions
        if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "self"
    ]


def list_operands(error: BaseException) -> list[str]:
    """The attributes of `self` whose results the failing expression computes with as they are: `x + self.attn(x)`."""
    found: list[ast.expr] = []
    for node in walk_expression(error):
        if isinstance(node, ast.BinOp):
            found += [node.left, node.right]
        elif isinstance(node, ast.Call):
            found += node.args
        elif isinstance(node, ast.List | ast.Tuple):
            found += node.elts
    functions = [node.func for node in found if isinstance(node, ast.Call)]
    return [
        f.attr
        for f in functions
        if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "self"
    ]


def walk_expression(error: BaseException) -> list[ast.AST]:
    """The nodes of the failing expression, by level; none where its source is not at hand.

    They are nodes of the tree of the whole file, with its line numbers. Do not change them.
    """
    frames = find_frames(error)
    node = find_expression(frames[-1]) if frames else None
    return [] if node is None else list(ast.walk(node))


def find_expression(frame: traceback.FrameSummary) -> ast.AST | None:
    """The smallest node that holds what a frame was at, and ends with it.

    Python gives a call of a method in a chain over several lines the place of its name alone.
    """
    tree = parse_file(frame.filename)
    if tree is None or frame.lineno is None:
        return None
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt)]
    end_line = frame.end_lineno or frame.lineno
    if frame.colno is None or frame.end_colno is None:
        held = [
            node
            for node in nodes
            if isinstance(node, ast.stmt)
            and node.lineno <= frame.lineno
            and end_line <= (node.end_lineno or node.lineno)
        ]
    else:
        start, end = (frame.lineno, frame.colno), (end_line, frame.end_colno)
        held = [
            node
            for node in nodes
            if (node.lineno, node.col_offset) <= start
            and (node.end_lineno, node.end_col_offset) == end
        ]
    return min(held, key=_size, default=None)


def _size(node: ast.expr | ast.stmt) -> tuple[int, int, int]:
    """How much of the file a node takes, for nodes that end alike; an expression before its statement."""
    return -node.lineno, -node.col_offset, isinstance(node, ast.stmt)


def parse_file(path: str) -> ast.Module | None:
    """The syntax tree of a file, or of a cell of a notebook; None where it is not at hand."""
    return _parse_text("".join(linecache.getlines(path)))


@functools.lru_cache(maxsize=32)
def _parse_text(text: str) -> ast.Module | None:
    try:
        return ast.parse(text) if text else None
    except (SyntaxError, ValueError):
        return None
