"""Finds loops that add up the gradients of several batches and step one batch too early, or take
the sum for the mean.
"""

import ast
from collections.abc import Iterator

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.scopes import list_assigned, list_live, list_own, make_slip
from cnnprobe.training.sourcing import FunctionText, name_of


def find_accumulations(files: list[str], steps: list[FunctionText]) -> Iterator[Slip]:
    """The loops of these files that step after every n-th batch, counted from the first, and those
    whose loss is not divided; of functions, those of the step and those that are called there.
    """
    for path in files:
        for scope in list_live(path, steps):
            for node in list_own(scope):
                if isinstance(node, ast.For):
                    yield from _find_in(node, path)


def _find_in(loop: ast.For, path: str) -> Iterator[Slip]:
    index = _find_index(loop)
    for place, statement in enumerate(loop.body):
        if not isinstance(statement, ast.If) or not index:
            continue
        rest = [s for s in loop.body if s is not statement]
        backward = [c for s in loop.body[:place] for c in _list_calls(s, "backward")]
        is_sum = (
            bool(backward)
            and bool(_list_calls(statement, "step"))
            and bool(_list_calls(statement, "zero_grad"))
            and not _list_calls(statement, "backward")
            and not any(_list_calls(s, "zero_grad") for s in rest)
        )
        count, is_shifted = _read_modulo(statement.test, index)
        if not is_sum or not count or count == "1":
            continue
        if not is_shifted:
            yield make_slip("first-step", statement.test, path, index, count)
        if len(backward) == 1 and not _is_divided(backward[0], loop):
            yield make_slip("undivided", backward[0], path, index, count)


def _list_calls(node: ast.AST, name: str) -> list[ast.Call]:
    return [n for n in ast.walk(node) if isinstance(n, ast.Call) and name_of(n.func) == name]


def _find_index(loop: ast.For) -> str:
    """The variable that counts the rounds of a loop from 0; "" for none."""
    call = loop.iter
    if not isinstance(call, ast.Call) or call.keywords:
        return ""
    first = loop.target.elts[0] if isinstance(loop.target, ast.Tuple) else loop.target
    starts = {"enumerate": call.args[1:2], "range": call.args[:1] if len(call.args) > 1 else []}
    start = starts.get(name_of(call.func))
    is_zero = start is not None and (not start or ast.unparse(start[0]) == "0")
    is_count = name_of(call.func) == "range" or isinstance(loop.target, ast.Tuple)
    return name_of(first) if is_zero and is_count and len(call.args) < 3 else ""


def _read_modulo(test: ast.expr, index: str) -> tuple[str, bool]:
    """By what a condition divides the index, and whether it adds 1 before; "" for another one."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        test = test.values[0]
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        side: ast.expr = test.operand
    elif isinstance(test, ast.Compare) and ast.unparse(test.comparators[0]) == "0":
        side = test.left
    else:
        return "", False
    if not isinstance(side, ast.BinOp) or not isinstance(side.op, ast.Mod):
        return "", False
    counted = ast.unparse(side.left)
    if counted not in (index, f"{index} + 1", f"1 + {index}"):
        return "", False
    return ast.unparse(side.right), counted != index


def _is_divided(backward: ast.Call, loop: ast.For) -> bool:
    """Whether a loss is divided or multiplied on the way to its backward, or made elsewhere."""
    loss = backward.func.value if isinstance(backward.func, ast.Attribute) else backward
    name = ast.unparse(loss)
    inner = list(ast.walk(loop))
    made: list[ast.expr] = [loss] if isinstance(loss, ast.Call | ast.BinOp) else []
    for node in inner:
        # what is divided behind the backward has its gradient by then
        if isinstance(node, ast.Assign) and node.lineno <= backward.lineno:
            made += [value for target, value in list_assigned(node) if ast.unparse(target) == name]
    changed = any(
        isinstance(n, ast.AugAssign)
        and ast.unparse(n.target) == name
        and n.lineno <= backward.lineno
        for n in inner
    )
    scaled = [n for value in made for n in ast.walk(value) if isinstance(n, ast.BinOp)]
    return not made or changed or any(isinstance(n.op, ast.Div | ast.Mult) for n in scaled)
