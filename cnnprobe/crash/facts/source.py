"""The user's functions as syntax trees, and compiled again with a change."""

import ast
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from cnnprobe.recorder.inventory import class_of


def returns_nothing(function: Callable[..., Any]) -> bool:
    """Whether a function is known to have no return with a value."""
    tree = parse(function)
    return tree is not None and not any(
        isinstance(node, ast.Return) and node.value is not None for node in ast.walk(tree)
    )


def parse(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """The syntax tree of a function, with the line numbers of its file."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    ast.increment_lineno(tree, first - 1)
    node = tree.body[0] if tree.body else None
    return node if isinstance(node, ast.FunctionDef) else None


def get_forward(module: nn.Module) -> Callable[..., Any]:
    """The forward as its class has it."""
    kind: Any = class_of(module)
    return kind.forward  # type: ignore[no-any-return]


def find_one_tuples(function: Callable[..., Any]) -> Iterator[ast.Tuple]:
    """The tuples of one element that a function assigns or returns: what a trailing comma makes."""
    tree = parse(function)
    for node in ast.walk(tree) if tree is not None else ():
        if (
            isinstance(node, ast.Assign | ast.Return)
            and isinstance(node.value, ast.Tuple)
            and len(node.value.elts) == 1
        ):
            yield node.value


def recompile(
    function: Callable[..., Any], transform: Callable[[ast.FunctionDef], None]
) -> Callable[..., Any] | None:
    """A function like the user's with a change in its syntax tree."""
    if (tree := parse(function)) is None or not isinstance(function, types.FunctionType):
        return None
    transform(tree)
    try:
        return compile_like(function, tree)
    except ValueError:
        return None


def compile_like(function: types.FunctionType, tree: ast.FunctionDef) -> types.FunctionType:
    """The function of a syntax tree, with the globals, defaults and closure of the user's.

    Raises:
        ValueError: it reads variables or has defaults that only the running program knows.
    """
    code = function.__code__
    tree.decorator_list = []
    outer = ast.parse(f"def outer({', '.join(code.co_freevars)}):\n    return None")
    outer.body[0].body.insert(0, tree)  # type: ignore[attr-defined]
    compiled = compile(ast.fix_missing_locations(outer), code.co_filename, "exec")
    inner = next((c for c in _constants(compiled) if c.co_name == tree.name), None)
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    if inner is None or not set(inner.co_freevars) <= set(cells):
        raise ValueError(tree.name)
    defaults = function.__defaults__ or ()
    if len(defaults) != len(tree.args.defaults):
        defaults = tuple(ast.literal_eval(node) for node in tree.args.defaults)
    closure = tuple(cells[name] for name in inner.co_freevars)
    made = types.FunctionType(inner, function.__globals__, tree.name, defaults, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _constants(code: types.CodeType) -> Iterator[types.CodeType]:
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield value
            yield from _constants(value)


# Methods that write, without a _ at the end.
WRITING = frozenset({"backward", "retain_grad", "register_hook", "resize", "resize_as"})


def evaluate(
    node: ast.expr, values: dict[str, Any], known: Callable[[ast.expr], Any] | None = None
) -> Any:
    """The value of a name, of an item of it, or of a tensor's method called with plain values.

    No method that writes is called. `known` gives the values of further expressions. None for
    everything else.
    """
    if isinstance(node, ast.Name):
        return values.get(node.id)
    if _literal(node) is not None:
        return _literal(node)
    if (found := known(node) if known is not None else None) is not None:
        return found
    if isinstance(node, ast.Subscript):
        value, index = evaluate(node.value, values, known), _literal(node.slice)
        is_plain = isinstance(value, torch.Tensor | list | tuple | dict) and index is not None
        return value[index] if is_plain else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _call_method(node, values, evaluate(node.func.value, values, known))
    return None


def _call_method(node: ast.Call, values: dict[str, Any], value: Any) -> Any:
    name = node.func.attr  # type: ignore[attr-defined]
    given = [_read_plain(argument, values) for argument in node.args]
    options = {k.arg: _read_plain(k.value, values) for k in node.keywords if k.arg is not None}
    is_plain = None not in given and None not in options.values()
    if type(value) is not torch.Tensor or not is_plain or len(options) < len(node.keywords):
        return None
    if name in WRITING or name.endswith("_"):
        return None
    method = getattr(torch.Tensor, name, None)
    return method(value, *given, **options) if method is not None else None


def _read_plain(node: ast.expr, values: dict[str, Any]) -> Any:
    """A number, a text, a device or a dtype: as it is written, or as its name stands for it."""
    value = values.get(node.id) if isinstance(node, ast.Name) else _literal(node)
    is_plain = not isinstance(node, ast.Name) or isinstance(
        value, int | float | str | torch.device | torch.dtype
    )
    return value if is_plain else None


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
