"""Finds where the text of a program takes the output of a model off its input."""

import ast
import re
from collections.abc import Iterator, Sequence

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.scopes import make_slip
from cnnprobe.training.sourcing import read_file

MODEL = re.compile(r"(^|_)(model|net|network|d?n?cnn|unet|denoiser)$", re.IGNORECASE)


def find_taken_off(files: Sequence[str]) -> Iterator[Slip]:
    """Each x - model(x), which is right where the output is the noise in x; `name` is x. What a
    forward takes off makes its own output.
    """
    for path in files:
        tree = read_file(path)
        for node in _walk_outside(tree) if tree is not None else ():
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
                given = _find_given(node.right)
                if given and isinstance(node.left, ast.Name) and node.left.id == given:
                    yield make_slip("taken-off", node, path, given)


def _walk_outside(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that lie in no forward."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if not isinstance(node, ast.FunctionDef) or node.name not in ("forward", "__call__"):
            yield node
            stack.extend(ast.iter_child_nodes(node))


def _find_given(node: ast.expr) -> str:
    """The only argument of the call of a model."""
    if not isinstance(node, ast.Call) or len(node.args) != 1 or node.keywords:
        return ""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    given = node.args[0]
    return given.id if MODEL.search(name) and isinstance(given, ast.Name) else ""
