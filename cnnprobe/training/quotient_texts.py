"""Finds divisions of whole numbers in the text of a program that are rounded down to 0."""

import ast
from collections.abc import Iterator, Sequence

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.scopes import list_assigned, make_slip
from cnnprobe.training.sourcing import read_file


def find_quotients(files: Sequence[str]) -> Iterator[Slip]:
    """The quotients a // b of written numbers, or of names that are assigned one number, which are
    0 though a is not; `name` is the variable that one is assigned to.
    """
    for path in files:
        tree = read_file(path)
        if tree is None:
            continue
        known = _list_numbers(tree)
        targets = {
            id(value): ast.unparse(target)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target, value in list_assigned(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
                above, below = _read(node.left, known), _read(node.right, known)
                if above and below and 0 < above < below:
                    yield make_slip("zero-quotient", node, path, targets.get(id(node), ""))


def _list_numbers(tree: ast.Module) -> dict[str, int]:
    """The names that are assigned one whole number, once."""
    found: dict[str, list[object]] = {}
    for node in ast.walk(tree):
        for target, value in list_assigned(node) if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name):
                found.setdefault(target.id, []).append(getattr(value, "value", None))
        if isinstance(node, ast.arg):
            found.setdefault(node.arg, []).append(None)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.setdefault(node.id, [])
    return {
        name: values[0]
        for name, values in found.items()
        if len(values) == 1 and isinstance(values[0], int)
    }


def _read(node: ast.expr, known: dict[str, int]) -> int | None:
    value = node.value if isinstance(node, ast.Constant) else known.get(ast.unparse(node))
    return value if isinstance(value, int) and not isinstance(value, bool) else None
