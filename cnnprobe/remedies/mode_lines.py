"""How train() is written into the user's own step, or into what it calls to evaluate."""

import ast

from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError, open_file
from cnnprobe.remedies.program import (
    UserProgram,
    calls_method,
    insert_after,
    insert_before,
    insert_first,
    list_statements,
    name_in_step,
    read_step,
)


def add_train(program: UserProgram, evaluated: str = "") -> list[TextChange]:
    """train() of the model at the beginning of the step; at the end of the function that calls
    eval() where the step calls that one, with its line.
    """
    file, function = read_step(program)
    path, _, line = evaluated.rpartition(":")
    if path and (path != file.path or not _spans(function, int(line))):
        return _add_train_behind(path, int(line))
    name = name_in_step(program, program.request.model)
    return [insert_first(file, function, f"{name}.train()")]


def _spans(function: ast.AST, line: int) -> bool:
    first, last = getattr(function, "lineno", 0), getattr(function, "end_lineno", 0)
    return bool(first <= line <= last)


def _add_train_behind(path: str, line: int) -> list[TextChange]:
    """train() as the last statement of the function that calls eval() on a line."""
    file = open_file(path)
    around = [
        node
        for node in ast.walk(file.tree)
        if isinstance(node, ast.FunctionDef) and _spans(node, line)
    ]
    if not around:
        raise UnknownPlaceError
    function = max(around, key=lambda node: node.lineno)
    found = [s for _, s in list_statements(function, calls_method("eval")) if s.lineno == line]
    call = found[0].value if len(found) == 1 and isinstance(found[0], ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        raise UnknownPlaceError
    text, last = f"{ast.unparse(call.func.value)}.train()", function.body[-1]
    returned = [n for n in ast.walk(function) if isinstance(n, ast.Return)]
    if not returned:
        return [insert_after(file, last, text)]
    is_plain = isinstance(last, ast.Return) and not any(
        isinstance(n, ast.Call) for n in ast.walk(last)
    )
    if len(returned) > 1 or not is_plain:
        raise UnknownPlaceError  # what is returned may be computed in eval mode
    return [insert_before(file, last, text)]
