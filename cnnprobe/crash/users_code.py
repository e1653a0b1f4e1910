"""The user's own source and frames: which values stood on the failing line, and a function compiled again with a change in it."""

import ast
import inspect
import linecache
import textwrap
import traceback
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cnnprobe.recorder import sources
from cnnprobe.recorder.inventory import class_of


def users_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The user's frames of a traceback, outermost first."""
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if sources.is_users(frame.filename)
    ]


def innermost_locals(error: BaseException) -> dict[str, Any]:
    """The local variables of the user's innermost frame."""
    found: dict[str, Any] = {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if sources.is_users(frame.f_code.co_filename):
            found = frame.f_locals
    return dict(found)


def frame_locals(error: BaseException, filename_end: str, function: str) -> dict[str, Any] | None:
    """The local variables of the outermost frame of a function of torch's, by the end of its file's name."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == function and frame.f_code.co_filename.replace(
            "\\", "/"
        ).endswith(filename_end):
            return dict(frame.f_locals)
    return None


def arguments_of(
    error: BaseException, module: nn.Module | None
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What a module was called with when it raised, from torch's own frame of the call; the latest where it was called within itself."""
    code = inspect.unwrap(nn.Module._call_impl).__code__
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is code and frame.f_locals.get("self") is module:
            found = frame.f_locals.get("args", ()), frame.f_locals.get("kwargs", {})
    return found


def names_on_the_line(error: BaseException) -> list[str]:
    """The names that are read in the failing expression, in order."""
    return [node.id for node in expression_of(error) if isinstance(node, ast.Name)]


def data_on_the_line(error: BaseException) -> list[str]:
    """The names that are read in the failing expression and not called in it."""
    nodes = expression_of(error)
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return [node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called]


def calls_on_the_line(error: BaseException) -> list[ast.Call]:
    """The calls in the failing expression, with the line numbers of their file."""
    frames = users_frames(error)
    calls = [node for node in expression_of(error) if isinstance(node, ast.Call)]
    for call in calls:
        call.lineno += (frames[-1].lineno or 1) - 1
    return calls


def cutting_call(error: BaseException, names: Collection[str]) -> tuple[str, int] | None:
    """The call, of a function of one of these names, on the way to what the failing line reads, with its line: as far as assignments tell."""
    frames = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if sources.is_users(frame.f_code.co_filename)
    ]
    if not frames:
        return None
    code, last = frames[-1].f_code, users_frames(error)[-1].lineno or 0
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):
        return None
    ast.increment_lineno(tree, max(first, 1) - 1)
    wanted = set(names_on_the_line(error))
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


def called_on_the_line(error: BaseException) -> list[str]:
    """The attributes of `self` that the failing expression calls."""
    functions = [node.func for node in expression_of(error) if isinstance(node, ast.Call)]
    return [
        f.attr
        for f in functions
        if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "self"
    ]


def operands_on_the_line(error: BaseException) -> list[str]:
    """The attributes of `self` whose results the failing expression computes with as they are: `x + self.attn(x)`."""
    found: list[ast.expr] = []
    for node in expression_of(error):
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


def expression_of(error: BaseException) -> list[ast.AST]:
    """The nodes of the failing expression, by level; none where its source is not at hand."""
    frames = users_frames(error)
    if not frames:
        return []
    try:
        return list(ast.walk(ast.parse(textwrap.dedent(_statement(frames[-1])).strip())))
    except (SyntaxError, ValueError):
        return []


def returns_nothing(function: Callable[..., Any]) -> bool:
    """Whether a function is known to have no return with a value."""
    tree = parsed(function)
    return tree is not None and not any(
        isinstance(node, ast.Return) and node.value is not None for node in ast.walk(tree)
    )


def _statement(frame: traceback.FrameSummary) -> str:
    first, last = frame.lineno or 0, frame.end_lineno or frame.lineno or 0
    lines = [linecache.getline(frame.filename, n) for n in range(first, last + 1)]
    if frame.colno is None or frame.end_colno is None or not lines:
        return "".join(lines)
    if len(lines) == 1:
        return lines[0].encode()[frame.colno : frame.end_colno].decode()
    lines[0] = lines[0].encode()[frame.colno :].decode()
    lines[-1] = lines[-1].encode()[: frame.end_colno].decode()
    return "(" + "".join(lines) + ")"


def parsed(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """The syntax tree of a function, with the line numbers of its file."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
    ast.increment_lineno(tree, first - 1)
    node = tree.body[0] if tree.body else None
    return node if isinstance(node, ast.FunctionDef) else None


def forward_of(module: nn.Module) -> Callable[..., Any]:
    """The forward as its class has it."""
    return getattr(class_of(module), "forward")  # type: ignore[no-any-return]  # noqa: B009 - `type` has none


def one_tuples(function: Callable[..., Any]) -> Iterator[ast.Tuple]:
    """The tuples of one element that a function assigns or returns: what a trailing comma makes."""
    tree = parsed(function)
    for node in ast.walk(tree) if tree is not None else ():
        if (
            isinstance(node, ast.Assign | ast.Return)
            and isinstance(node.value, ast.Tuple)
            and len(node.value.elts) == 1
        ):
            yield node.value


def compiled_again(
    function: Callable[..., Any], transform: Callable[[ast.FunctionDef], None]
) -> Callable[..., Any] | None:
    """A function like the user's with a change in its syntax tree; same globals, defaults and closure."""
    tree = parsed(function)
    if tree is None or not isinstance(function, types.FunctionType):
        return None
    transform(tree)
    tree.decorator_list = []
    outer = ast.parse(f"def outer({', '.join(function.__code__.co_freevars)}):\n    return None")
    outer.body[0].body.insert(0, tree)  # type: ignore[attr-defined]
    code = compile(ast.fix_missing_locations(outer), function.__code__.co_filename, "exec")
    inner = next((c for c in _constants(code) if c.co_name == function.__name__), None)
    if inner is None:
        return None
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if not set(inner.co_freevars) <= set(cells):
        return None
    made = types.FunctionType(
        inner,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells[name] for name in inner.co_freevars),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _constants(code: types.CodeType) -> Iterator[types.CodeType]:
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield value
            yield from _constants(value)


def without_one_tuples(tree: ast.FunctionDef) -> None:
    """Drop the trailing commas of assignments and returns."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign | ast.Return)
            and isinstance(node.value, ast.Tuple)
            and len(node.value.elts) == 1
        ):
            node.value = node.value.elts[0]


def nested(function: Callable[..., Any], name: str) -> Callable[..., Any] | None:
    """The function of a name that is defined inside of another, as if it stood beside it."""
    tree = parsed(function)
    found = (
        next(
            (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name),
            None,
        )
        if tree is not None
        else None
    )
    if found is None or not isinstance(function, types.FunctionType):
        return None
    code = compile(ast.Module(body=[found], type_ignores=[]), function.__code__.co_filename, "exec")
    inner = next(value for value in code.co_consts if isinstance(value, types.CodeType))
    defaults = [ast.literal_eval(node) for node in found.args.defaults]
    return types.FunctionType(inner, function.__globals__, name, tuple(defaults))


def returning(function: Callable[..., Any]) -> tuple[Callable[..., Any] | None, str]:
    """A function like the user's that returns what its last statement computes, and that in his words; None where there is no such thing."""
    tree = parsed(function)
    last = tree.body[-1] if tree is not None and tree.body else None
    if isinstance(last, ast.Expr) and not isinstance(last.value, ast.Constant):
        shown = ast.unparse(last.value)

        def returned(node: ast.FunctionDef) -> None:
            node.body[-1] = ast.Return(value=node.body[-1].value)  # type: ignore[attr-defined]
    elif isinstance(last, ast.Assign | ast.AugAssign | ast.AnnAssign):
        target = last.targets[-1] if isinstance(last, ast.Assign) else last.target
        if not isinstance(target, ast.Name):
            return None, ""
        shown = target.id

        def returned(node: ast.FunctionDef) -> None:
            node.body.append(ast.Return(value=ast.Name(id=shown, ctx=ast.Load())))
    else:
        return None, ""
    return compiled_again(function, returned), shown


_WRITING = frozenset(
    {"backward", "retain_grad", "register_hook", "resize", "resize_as"}
)  # methods that write, without a _ at the end


def evaluated(node: ast.expr, values: dict[str, Any]) -> Any:
    """A name, an item or attribute of it, or methods of a tensor that write nothing, called with plain values; None for everything else."""
    if isinstance(node, ast.Name):
        return values.get(node.id)
    if _literal(node) is not None:
        return _literal(node)
    if isinstance(node, ast.Subscript):
        value, index = evaluated(node.value, values), _literal(node.slice)
        is_plain = isinstance(value, torch.Tensor | list | tuple | dict) and index is not None
        return value[index] if is_plain else None
    if not (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ) or node.func.attr.endswith("_"):
        return None
    value, given = evaluated(node.func.value, values), [_literal(a) for a in node.args]
    options = {k.arg: _literal(k.value) for k in node.keywords if k.arg is not None}
    if (
        type(value) is not torch.Tensor
        or None in given
        or None in options.values()
        or len(options) < len(node.keywords)
    ):
        return None
    method = getattr(torch.Tensor, node.func.attr, None)
    return (
        method(value, *given, **options)
        if method is not None and node.func.attr not in _WRITING
        else None
    )


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
