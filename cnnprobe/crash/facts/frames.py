"""The frames of an exception: which values stood on the failing line."""

import ast
import contextlib
import contextvars
import functools
import inspect
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnprobe.crash.facts.trees import list_functions, list_nodes, parse_file, starts_at
from cnnprobe.recorder import sources

_Remembered = dict[types.TracebackType | None, list[traceback.FrameSummary]]
_remembered = contextvars.ContextVar[_Remembered | None]("remembered", default=None)
_STARTS = ("torch/_tensor.py", "torch/autograd/__init__.py")
_BACKWARDS = ("backward", "grad")
_CASTS = ("float", "double", "half", "long", "int", "bool", "to", "cpu", "cuda", "detach", "clone")
_COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")


@contextlib.contextmanager
def remember_frames() -> Iterator[None]:
    """While it lasts, the frames of each exception are read once: many causes ask for them."""
    token = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(token)


def find_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The user's frames of a traceback, outermost first."""
    remembered = _remembered.get()
    if remembered is None:
        return _read_frames(error)
    if error.__traceback__ not in remembered:
        remembered[error.__traceback__] = _read_frames(error)
    return remembered[error.__traceback__]


def _read_frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [f for f in traceback.extract_tb(error.__traceback__) if sources.is_users(f.filename)]


def list_frames(error: BaseException) -> list[types.FrameType]:
    """The frames of a traceback, outermost first; also those of torch."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def is_users(frame: types.FrameType) -> bool:
    """Whether a frame is that of the user's code."""
    return sources.is_users(frame.f_code.co_filename)


def get_path(frame: types.FrameType) -> str:
    """The path of a frame's file, with slashes."""
    return frame.f_code.co_filename.replace("\\", "/")


def read_locals(error: BaseException) -> dict[str, Any]:
    """The local variables of the user's innermost frame."""
    frames = [frame for frame in list_frames(error) if is_users(frame)]
    return dict(frames[-1].f_locals) if frames else {}


def read_names(error: BaseException) -> dict[str, Any]:
    """The variables that the user's innermost frame can read: its locals and globals."""
    found: dict[str, Any] = {}
    for frame in filter(is_users, list_frames(error)):
        around = found if is_comprehension(frame) else {}
        found = {**frame.f_globals, **around, **frame.f_locals}
    return found


def is_comprehension(frame: types.FrameType) -> bool:
    """Whether a frame is that of a comprehension, which is part of the function around it."""
    return frame.f_code.co_name in _COMPREHENSIONS


def read_frame(error: BaseException, filename_end: str, function: str) -> dict[str, Any] | None:
    """The local variables of the outermost frame of a function in a file that ends so."""
    for frame in list_frames(error):
        if frame.f_code.co_name == function and get_path(frame).endswith(filename_end):
            return dict(frame.f_locals)
    return None


def find_missing(error: BaseException) -> tuple[Any, str]:
    """Of what which name was asked: nn.Module and torch raise without saying so."""
    for path, key in (("torch/nn/modules/module.py", "self"), ("torch/__init__.py", "")):
        asked = read_frame(error, path, "__getattr__")
        if asked is not None and isinstance(error, AttributeError):
            return asked.get(key, torch), asked.get("name", "")
    if not isinstance(error, AttributeError):
        return None, ""
    return error.obj, error.name or ""


def read_arguments(
    error: BaseException, module: nn.Module | None
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What a module was called with when it raised; the latest call, if it was called in itself."""
    code = inspect.unwrap(nn.Module._call_impl).__code__
    found = None
    for frame in list_frames(error):
        if frame.f_code is code and frame.f_locals.get("self") is module:
            found = frame.f_locals.get("args", ()), frame.f_locals.get("kwargs", {})
    return found


def find_optimizer(error: BaseException) -> Optimizer | None:
    """The optimizer whose step raised."""
    for frame in list_frames(error):
        for value in (frame.f_locals.get("self"), *(frame.f_locals.get("args") or ())[:1]):
            if isinstance(value, Optimizer) and hasattr(value, "param_groups"):  # it is made
                return value
    return None


@dataclass(frozen=True, kw_only=True)
class CalledMethod:
    """A method of torch's optimizers, schedulers or scalers that did not get what it needs."""

    owner: Any
    method: str
    shown: str  # as it is written: scheduler.step
    missing: tuple[str, ...]  # parameters without a default that it was not given
    node: ast.Call


def find_called_method(error: BaseException) -> CalledMethod | None:
    """The method that could not be called with its arguments; None where that is not why."""
    frames, nodes = list_frames(error), walk_expression(error)
    is_ours = bool(frames) and is_users(frames[-1])
    if not isinstance(error, TypeError) or not is_ours or not nodes:
        return None
    match nodes[0]:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method) as function) as node:
            owner = read_names(error).get(name)
        case _:
            return None
    if not isinstance(owner, Optimizer | LRScheduler | GradScaler):
        return None
    if not callable(called := getattr(owner, method, None)):
        return None
    needed = [
        key
        for key, p in inspect.signature(called).parameters.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    named = {keyword.arg for keyword in node.keywords}
    if None in named or any(isinstance(part, ast.Starred) for part in node.args):
        return None
    missing = tuple(key for key in needed[len(node.args) :] if key not in named)
    shown = ast.unparse(function)
    found = CalledMethod(owner=owner, method=method, shown=shown, missing=missing, node=node)
    return found if missing else None


def list_backward_frames(error: BaseException) -> list[tuple[types.FrameType, int]]:
    """The user's frames that a backward called, with their lines: of a hook, or of a function."""
    found: list[tuple[types.FrameType, int]] = []
    started = False
    for frame, line in traceback.walk_tb(error.__traceback__):
        is_start = get_path(frame).endswith(_STARTS) and frame.f_code.co_name in _BACKWARDS
        started = started or is_start
        if started and is_users(frame):
            found.append((frame, line))
    return found


def list_names(error: BaseException) -> list[str]:
    """The names that are read in the failing expression, in order."""
    return [node.id for node in walk_expression(error) if isinstance(node, ast.Name)]


def list_calls(error: BaseException) -> list[ast.Call]:
    """The calls in the failing expression."""
    return [node for node in walk_expression(error) if isinstance(node, ast.Call)]


def parse_function(error: BaseException) -> ast.AST | None:
    """The syntax tree of the function, or of the file, in which the user's innermost frame is."""
    codes = [frame.f_code for frame in list_frames(error) if is_users(frame)]
    return parse_code(codes[-1]) if codes else None


def parse_code(code: types.CodeType) -> ast.AST | None:
    """The syntax tree of a function, or of a file, by its code."""
    tree = parse_file(code.co_filename)
    if tree is None or code.co_name == "<module>":
        return tree
    return next((node for node in list_functions(tree) if starts_at(node, code)), tree)


def find_cut(error: BaseException, cuts: Callable[[str], bool]) -> tuple[str, int] | None:
    """The call that cuts the graph on the way to what the failing line reads, with its line.

    As far as assignments tell; `cuts` says of a function's name whether no gradient passes it.
    """
    frames, tree = find_frames(error), parse_function(error)
    last = frames[-1].lineno or 0 if frames else 0
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Assign)] if tree is not None else []
    values, wanted = read_names(error), set(list_names(error))
    for node in sorted(found, key=lambda one: -one.lineno):
        targets = {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        if node.lineno > last or not targets & wanted:
            continue
        for call in (n for n in ast.walk(node.value) if isinstance(n, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if cuts(name) and _reads_a_result(call, values):
                return name, call.lineno
        read = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        wanted = (wanted - targets) | read
    return None


def find_assigned_value(error: BaseException, name: str) -> ast.expr | None:
    """What a name of the user's innermost frame was given last before the failing line."""
    frames, tree = find_frames(error), parse_function(error)
    return find_value(tree, name, frames[-1].lineno or 0) if tree is not None else None


def find_value(tree: ast.AST, name: str, line: int) -> ast.expr | None:
    """What a name was given last before a line of a function."""
    assigned = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and node.lineno < line
        and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
    ]
    return max(assigned, key=lambda node: node.lineno).value if assigned else None


def find_maker(error: BaseException, name: str) -> tuple[str, int] | None:
    """The call whose result a name had on the failing line, as it is written, with its line."""
    value = find_assigned_value(error, name)
    while isinstance(value, ast.Call):
        function = value.func
        is_cast = isinstance(function, ast.Attribute) and function.attr in _CASTS
        inner = function.value if isinstance(function, ast.Attribute) and is_cast else None
        if not isinstance(inner, ast.Call):
            return ast.unparse(function), value.lineno
        value = inner
    return None


def _reads_a_result(call: ast.Call, values: Mapping[str, Any]) -> bool:
    """Whether a call works on what a model gives, or on a tensor with a graph, not on data."""
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


def walk_expression(error: BaseException) -> list[ast.AST]:
    """The nodes of the failing expression, by level; none where its source is not at hand.

    They are nodes of the tree of the whole file, with its line numbers. Do not change them.
    """
    frames = find_frames(error)
    node = find_expression(frames[-1]) if frames else None
    return [] if node is None else list(list_nodes(node))


def find_assignment(error: BaseException) -> ast.Assign | None:
    """The assignment that failed, also where it is its targets that raised."""
    frames = find_frames(error)
    tree = parse_file(frames[-1].filename) if frames else None
    line = frames[-1].lineno or 0 if frames else 0
    found = [
        node
        for node in (list_nodes(tree) if tree is not None else ())
        if isinstance(node, ast.Assign) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return min(found, key=_size, default=None)


def find_expression(frame: traceback.FrameSummary) -> ast.AST | None:
    """The smallest node that holds what a frame was at, and ends with it.

    Python gives a call of a method in a chain over several lines the place of its name alone.
    """
    if (tree := parse_file(frame.filename)) is None or frame.lineno is None:
        return None
    end_line = frame.end_lineno or frame.lineno
    return _find_smallest(tree, (frame.lineno, frame.colno), (end_line, frame.end_colno))


@functools.lru_cache(maxsize=64)  # a dozen causes ask for the same place
def _find_smallest(
    tree: ast.Module, start: tuple[int, int | None], end: tuple[int, int | None]
) -> ast.AST | None:
    nodes = [node for node in list_nodes(tree) if isinstance(node, ast.expr | ast.stmt)]
    if start[1] is None or end[1] is None:
        held: list[ast.expr | ast.stmt] = [
            node
            for node in nodes
            if isinstance(node, ast.stmt)
            and node.lineno <= start[0]
            and end[0] <= (node.end_lineno or node.lineno)
        ]
    else:
        held = [
            node
            for node in nodes
            if (node.lineno, node.col_offset) <= (start[0], start[1])
            and (node.end_lineno, node.end_col_offset) == end
        ]
    return min(held, key=_size, default=None)


def _size(node: ast.expr | ast.stmt) -> tuple[int, int, int]:
    """How much of the file a node takes, of those that end alike; an expression goes first."""
    return -node.lineno, -node.col_offset, isinstance(node, ast.stmt)
