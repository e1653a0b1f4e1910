"""A loss of the user's own that raised: a function, a module or a line, found by what it got."""

import ast
import copy
import dis
import inspect
import re
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.frames import (
    find_expression,
    list_frames,
    read_arguments,
    read_names,
    walk_expression,
)
from cnnprobe.crash.facts.source import evaluate
from cnnprobe.crash.model_copy import LARGEST_COPY
from cnnprobe.operations import find_function, is_writing
from cnnprobe.recorder import sources

_TARGET = re.compile(r"target|label|mask|truth|gt|^y", re.IGNORECASE)
# What calls them does more than compute a loss: it is not called again.
_ACTS = frozenset({"backward", "step", "zero_grad", "save", "write", "open", "add_scalar"})
_LONGEST = 60  # characters of a line that are shown
_OPEN = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_COROUTINE


@dataclass(frozen=True, kw_only=True)
class OwnCall:
    """A call of the user's that got the model's output, and that can be made again."""

    shown: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    names: tuple[str, str]  # of the arguments that are the output and the targets; "": none
    is_whole: bool = True  # False: the part of a line that failed


def find_own_call(crash: Crash) -> OwnCall | None:
    """The outermost function of the user's that got the model's output and has raised."""
    outputs = crash.trace.calls[0].outputs if crash.trace.calls else ()
    shapes = {t.shape for t in outputs}
    frames = list_frames(crash.error)
    for i, frame in enumerate(frames):
        code = frame.f_code
        if not sources.is_users(code.co_filename) or code.co_flags & _OPEN:
            continue
        given = _read_given(crash.error, frames, i)
        names = _name_arguments(given, shapes)
        if names is not None:
            function = _rebuild(frame)
            shown = code.co_name
            if function is None or _ACTS & set(code.co_names):
                return None
            if shown in ("forward", "__call__"):
                shown = type(next(iter(frame.f_locals.values()))).__name__
            given |= _read_weights(frame)
            return OwnCall(shown=shown, function=function, arguments=given, names=names)
    return _find_line(crash, shapes)


def _find_line(crash: Crash, shapes: set[tuple[int, ...]]) -> OwnCall | None:
    """The failing expression of a loop that computes with the output: `pred - y`."""
    nodes, values = walk_expression(crash.error), read_names(crash.error)
    if not nodes or not isinstance(nodes[0], ast.expr) or not all(map(_is_harmless, nodes)):
        return None
    read = {node.id for node in nodes if isinstance(node, ast.Name)}
    given = {name: values[name] for name in read if isinstance(values.get(name), Tensor)}
    names = _name_arguments(given, shapes)
    if names is None or not names[1] or tuple(given[names[0]].shape) not in shapes:
        return None
    code = compile(ast.Expression(nodes[0]), "<line>", "eval")

    def run(**changed: Any) -> Any:
        return eval(code, values | changed)  # noqa: S307 - names, operators and torch's functions

    text = ast.unparse(nodes[0])
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return OwnCall(shown=shown, function=run, arguments=given, names=names, is_whole=False)


def _is_harmless(node: ast.AST) -> bool:
    """Whether an expression calls nothing but functions of torch and methods of tensors."""
    if not isinstance(node, ast.Call):
        return not isinstance(node, ast.Lambda | ast.NamedExpr | ast.Await | ast.Yield)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    info = find_function(name) if name else None
    return info is not None and not is_writing(name) and info.effect != "fills"


def _name_arguments(
    given: Mapping[str, Any], shapes: set[tuple[int, ...]]
) -> tuple[str, str] | None:
    """Which of the arguments are the output and the targets; None where there is no output."""
    leaves = {
        name: [t for t in tree_leaves(value) if isinstance(t, Tensor)]
        for name, value in given.items()
        if not isinstance(value, nn.Module)
    }
    has_graph = any(t.requires_grad for found in leaves.values() for t in found)
    outputs = [
        name
        for name, found in leaves.items()
        if any(tuple(t.shape) in shapes and (t.requires_grad or not has_graph) for t in found)
    ]
    if not outputs:
        outputs = [n for n, found in leaves.items() if any(t.grad_fn is not None for t in found)]
    if not outputs:
        return None
    others = [name for name, found in leaves.items() if found and name != outputs[0]]
    plain = [name for name in others if not any(t.requires_grad for t in leaves[name])]
    named = [name for name in plain if _TARGET.search(name)]
    return outputs[0], next(iter([*named, *plain]), "")


# -- what it was given -----------------------------------------------------------------------------


def _list_parameters(code: types.CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _read_given(error: BaseException, frames: list[types.FrameType], i: int) -> dict[str, Any]:
    """The arguments of a call as they arrived, without self."""
    frame, names = frames[i], _list_parameters(frames[i].f_code)
    given = {name: frame.f_locals[name] for name in names if name in frame.f_locals}
    owner = given.pop("self", None)
    stored = {o.argval for o in dis.get_instructions(frame.f_code) if o.opname.startswith("STORE_")}
    if not stored & set(given):
        return given
    if isinstance(owner, nn.Module) and (call := read_arguments(error, owner)) is not None:
        return given | dict(zip(given, call[0], strict=False)) | call[1]
    return given | _read_call(error, i, tuple(given), frames)


def _read_call(
    error: BaseException, i: int, names: tuple[str, ...], frames: list[types.FrameType]
) -> dict[str, Any]:
    """The arguments that stand as plain values in the caller's line."""
    if i == 0:
        return {}
    values = {**frames[i - 1].f_globals, **frames[i - 1].f_locals}
    call = find_expression(traceback.extract_tb(error.__traceback__)[i - 1])
    if not isinstance(call, ast.Call):
        return {}
    written = dict(zip(names, call.args, strict=False))
    written |= {k.arg: k.value for k in call.keywords if k.arg is not None}
    found = {name: evaluate(node, values) for name, node in written.items()}
    return {name: value for name, value in found.items() if value is not None}


def _read_weights(frame: types.FrameType) -> dict[str, Any]:
    """The vectors and numbers that the module of a loss holds, as arguments: self.alpha."""
    owner = frame.f_locals.get("self")
    held = {**vars(owner), **owner._buffers} if isinstance(owner, nn.Module) else {}
    return {
        f"self.{name}": value
        for name, value in held.items()
        if (isinstance(value, Tensor) and value.dim() == 1) or type(value) is int
    }


def _rebuild(frame: types.FrameType) -> Callable[..., Any] | None:
    """The function of a frame, bound to a copy of its `self` at each call."""
    code, values = frame.f_code, frame.f_locals
    if not set(code.co_freevars) <= set(values):
        return None
    cells = tuple(types.CellType(values[name]) for name in code.co_freevars)
    function = types.FunctionType(code, frame.f_globals, code.co_name, None, cells)
    if _list_parameters(code)[:1] != ("self",):
        return function
    owner = values.get("self")
    if not isinstance(owner, nn.Module):
        return lambda **given: function(copy.copy(owner), **given)
    if sum(p.numel() for p in owner.parameters() if not is_lazy(p)) > LARGEST_COPY:
        return None

    def run(**given: Any) -> Any:
        own = copy.deepcopy(owner)
        for name in [name for name in given if name.startswith("self.")]:
            setattr(own, name.removeprefix("self."), given.pop(name))
        return function(own, **given)

    return run
