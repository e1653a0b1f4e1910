"""Finds averages over the batches of an epoch that are divided by another number than they were
added up over, or never set back.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.scopes import Scope, list_live, list_own, make_slip
from cnnprobe.training.sourcing import FunctionText, name_of, read_file

_WRAPPING = frozenset({"enumerate", "tqdm", "trange", "track"})
_SAME = frozenset({"item", "float", "double", "cpu", "detach", "data", "numpy", "int"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """A variable that a loop over batches adds to."""

    name: str
    unit: str  # "samples": counts or sums over samples | "batches": means of batches | ""
    loop: ast.For
    loader: str


def find_averages(files: list[str], steps: Sequence[FunctionText]) -> Iterator[Slip]:
    """The averages of these files that are wrong by their units, or add up all epochs."""
    for path in files:
        tree = read_file(path)
        is_sum = tree is not None and any(_asks_for_sum(n) for n in ast.walk(tree))
        for scope in list_live(path, steps):
            sums = list(_list_sums(scope, is_sum=is_sum))
            for use in (n for n in list_own(scope) if _is_quotient(n)):
                yield from _judge(use, sums, scope, path)  # type: ignore[arg-type]


def _asks_for_sum(node: ast.AST) -> bool:
    """Whether losses of this file may be sums: reduction="sum" or "none"."""
    return isinstance(node, ast.keyword) and node.arg in ("reduction", "size_average", "reduce")


def _is_quotient(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)


# -- what is added up ------------------------------------------------------------------------------


def _list_sums(scope: Scope, *, is_sum: bool) -> Iterator[_Sum]:
    for loop in (n for n in list_own(scope) if isinstance(n, ast.For)):
        inner = [n for s in loop.body for n in ast.walk(s)]
        if any(isinstance(n, ast.For) for n in inner):
            continue
        made = {
            n.targets[0].id: n.value
            for n in inner
            if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
        }
        trained = {ast.unparse(n.func.value) for n in inner if _is_backward(n)}  # type: ignore[attr-defined]
        for node in inner:
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
                unit = _find_unit(node.value, made, set() if is_sum else trained)
                yield _Sum(
                    name=ast.unparse(node.target), unit=unit, loop=loop, loader=_name_loader(loop)
                )


def _is_backward(node: ast.AST) -> bool:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return is_call and node.func.attr == "backward"  # type: ignore[attr-defined]


def _name_loader(loop: ast.For) -> str:
    node = loop.iter
    while isinstance(node, ast.Call) and name_of(node.func) in _WRAPPING and node.args:
        node = node.args[0]
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _find_unit(node: ast.expr, made: dict[str, ast.expr], trained: set[str]) -> str:
    """Over what a summand is: samples that are equal, or a loss, the mean of a batch."""
    while isinstance(node, ast.Call | ast.Attribute):
        if ast.unparse(node) in trained:
            return "batches"
        func = node.func if isinstance(node, ast.Call) else node
        if name_of(func) == "sum" and isinstance(func, ast.Attribute):
            return "samples" if _is_equality(func.value, made) else ""
        if name_of(func) not in _SAME or not isinstance(func, ast.Attribute):
            return ""
        node = func.value
    if ast.unparse(node) in trained:
        return "batches"
    if isinstance(node, ast.Name) and node.id in made:
        rest = {name: value for name, value in made.items() if name != node.id}
        return _find_unit(made[node.id], rest, trained)
    return ""


def _is_equality(node: ast.expr, made: dict[str, ast.expr]) -> bool:
    """Whether predictions are compared with labels, one for each sample."""
    while isinstance(node, ast.Call) and name_of(node.func) in _SAME:
        node = node.func.value  # type: ignore[attr-defined]
    if isinstance(node, ast.Name) and node.id in made:
        node = made[node.id]
    if isinstance(node, ast.Compare):
        return len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq)
    return isinstance(node, ast.Call) and name_of(node.func) == "eq"


# -- by what it is divided -------------------------------------------------------------------------


def _judge(use: ast.BinOp, sums: list[_Sum], scope: Scope, path: str) -> Iterator[Slip]:
    for found in sums:
        if not _is_multiple(use.left, found.name) or _is_inside(use, found.loop):
            continue
        divisor = ast.unparse(use.right)
        outer = _find_epochs(scope, found, use)
        if outer is not None and _is_fixed(use.right, outer):
            yield make_slip("never-reset", use, path, found.name, divisor)
        elif found.unit == "samples" and divisor == f"len({found.loader})":
            yield make_slip("by-batches", use, path, found.name, divisor)
        elif found.unit == "batches" and divisor == f"len({found.loader}.dataset)":
            yield make_slip("by-samples", use, path, found.name, divisor)


def _is_multiple(node: ast.expr, name: str) -> bool:
    """Whether it is the sum, or 100 times the sum."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _is_multiple(node.left, name) or _is_multiple(node.right, name)
    if isinstance(node, ast.Call) and name_of(node.func) in _SAME:
        return isinstance(node.func, ast.Attribute) and _is_multiple(node.func.value, name)
    return ast.unparse(node) == name


def _is_inside(node: ast.AST, loop: ast.AST) -> bool:
    return any(inner is node for inner in ast.walk(loop))


def _find_epochs(scope: Scope, found: _Sum, use: ast.BinOp) -> ast.For | None:
    """The loop around the loop over batches and the quotient, in which the sum is never assigned,
    while it is before.
    """
    for outer in (n for n in list_own(scope) if isinstance(n, ast.For)):
        if outer is found.loop or not (_is_inside(found.loop, outer) and _is_inside(use, outer)):
            continue
        assigned = [n for n in ast.walk(scope) if isinstance(n, ast.Assign)]
        places = [n for n in assigned if any(ast.unparse(t) == found.name for t in n.targets)]
        if places and not any(_is_inside(n, outer) for n in places):
            return outer
    return None


def _is_fixed(divisor: ast.expr, outer: ast.For) -> bool:
    """Whether a number stays the same from round to round: a length, or what the loop leaves
    alone.
    """
    names = {n.id for n in ast.walk(divisor) if isinstance(n, ast.Name)}
    stored = {
        n.id for n in ast.walk(outer) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    return not names & stored
