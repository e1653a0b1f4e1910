"""Changes of the user's functions, as text of their file: a hook, a backward, an __init__."""

import ast
import types
from collections.abc import Callable

from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError, open_file
from cnnprobe.crash.facts.frames import find_frames


def find_definition(code: types.CodeType) -> tuple[File, ast.FunctionDef]:
    """The file and the syntax tree of a function, by its code."""
    file = open_file(code.co_filename)
    for node in ast.walk(file.tree):
        is_named = isinstance(node, ast.FunctionDef) and node.name == code.co_name
        if is_named and code.co_firstlineno in (
            node.lineno,  # type: ignore[attr-defined]
            *(d.lineno for d in node.decorator_list),  # type: ignore[attr-defined]
        ):
            return file, node  # type: ignore[return-value]
    raise UnknownPlaceError


def add_parameters(code: types.CodeType, *names: str) -> Callable[[], list[TextChange]]:
    """More parameters before the first."""

    def written() -> list[TextChange]:
        file, function = find_definition(code)
        start = file.span(function.args.args[0])[0]
        return [TextChange(file.path, start, start, "".join(f"{name}, " for name in names))]

    return written


def index_parameter(code: types.CodeType, position: int) -> Callable[[], list[TextChange]]:
    """The first element of a parameter wherever it is read."""

    def written() -> list[TextChange]:
        file, function = find_definition(code)
        name = function.args.args[position].arg
        found = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name]
        if any(not isinstance(node.ctx, ast.Load) for node in found):
            raise UnknownPlaceError
        return [file.replace(node, f"{name}[0]") for node in found]

    return written


def drop_return(code: types.CodeType) -> Callable[[], list[TextChange]]:
    """What was returned is computed and dropped, at the end of a function."""

    def written() -> list[TextChange]:
        file, function = find_definition(code)
        returns = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
        if returns != [function.body[-1]] or returns[0].value is None:
            raise UnknownPlaceError
        start, end = file.span(returns[0])
        if len(function.body) > 1 and isinstance(returns[0].value, ast.Name | ast.Subscript):
            return [TextChange(file.path, file.span(function.body[-2])[1], end, "")]
        return [
            TextChange(file.path, start, file.span(returns[0].value)[0], ""),
            TextChange(file.path, end, end, ""),
        ]

    return written


def extend_return(code: types.CodeType, more: str) -> Callable[[], list[TextChange]]:
    """More values after those that are returned."""

    def written() -> list[TextChange]:
        file, function = find_definition(code)
        returns = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
        values = [value for value in returns if value is not None]
        ends = [
            file.span(v.elts[-1] if isinstance(v, ast.Tuple) and v.elts else v)[1] for v in values
        ]
        return [TextChange(file.path, end, end, f", {more}") for end in ends]

    return written


def add_first_statement(code: types.CodeType, text: str) -> Callable[[], list[TextChange]]:
    """A statement before all others but a docstring."""

    def written() -> list[TextChange]:
        file, function = find_definition(code)
        has_docstring = isinstance(function.body[0], ast.Expr) and isinstance(
            function.body[0].value, ast.Constant
        )
        if (
            any(isinstance(node, ast.Name) and node.id == "super" for node in ast.walk(function))
            or len(function.body) == has_docstring
        ):
            raise UnknownPlaceError
        first = function.body[has_docstring]
        start = file.span(first)[0]
        return [TextChange(file.path, start, start, f"{text}\n{' ' * first.col_offset}")]

    return written


def replace_expression(
    error: BaseException, node: ast.expr, text: str
) -> Callable[[], list[TextChange]]:
    """Another text in the place of a part of the failing expression."""
    frames = find_frames(error)
    return lambda: [open_file(frames[-1].filename).replace(node, text)]


def replace_keyword(
    error: BaseException, call: ast.Call, old: str, new: str
) -> Callable[[], list[TextChange]]:
    """Another name for a keyword of a call on the failing line."""
    frames = find_frames(error)

    def written() -> list[TextChange]:
        found = next(k for k in call.keywords if k.arg == old)
        file = open_file(frames[-1].filename)
        start = file.offset(found.lineno, found.col_offset)
        if not new:
            raise UnknownPlaceError
        return [TextChange(file.path, start, start + len(old), new)]

    return written
