"""Reads where the text of a program lets frozen parameters train again, and whether an optimizer
gets them then.
"""

import ast
from collections.abc import Iterator, Sequence

import torch.optim

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.scopes import list_assigned, make_slip
from cnnprobe.training.sourcing import name_of, read_file

_OPTIMIZERS = frozenset(n for n, v in vars(torch.optim).items() if isinstance(v, type))


def unfreezes(files: Sequence[str]) -> bool:
    """Whether a statement of these files lets parameters require grad, or may, by a variable."""
    trees = [tree for path in files if (tree := read_file(path)) is not None]
    return any(_switches_on(n) for tree in trees for n in ast.walk(tree))


def find_thawed(files: Sequence[str]) -> Iterator[Slip]:
    """The statements in a loop over epochs that let parameters require grad, where the optimizer
    was given those that required it before, and gets no others.
    """
    for path in files:
        tree = read_file(path)
        if tree is None:
            continue
        makers = [n for n in ast.walk(tree) if _makes_optimizer(n)]
        adds = any(name_of(n) == "add_param_group" for n in ast.walk(tree))
        loops = [n for n in ast.walk(tree) if isinstance(n, ast.For | ast.While)]
        if adds or not any(map(_is_partial, makers)):
            continue
        for loop in loops:
            inside = _list_reached(loop, tree)
            if any(_makes_optimizer(n) for n in inside):
                continue
            thawing = [n for n in inside if _switches_on(n) and not _is_open(n)]
            if thawing and _depends_on_round(loop, thawing[0], tree):
                name = next((_name(m, tree) for m in makers if _is_partial(m)), "optimizer")
                yield make_slip("thawed", thawing[0], path, name)
                break


def _makes_optimizer(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and name_of(node.func) in _OPTIMIZERS


def _is_partial(node: ast.AST) -> bool:
    """Whether an optimizer is given the parameters that require grad, or those of a part."""
    given = node.args[:1] if isinstance(node, ast.Call) else []
    return any(
        name_of(n) == "requires_grad"
        or (
            name_of(n) == "parameters"
            and isinstance(getattr(n, "value", None), ast.Attribute | ast.Subscript)
        )
        for each in given
        for n in ast.walk(each)
    )


def _name(maker: ast.AST, tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target, value in list_assigned(node):
                if value is maker:
                    return ast.unparse(target)
    return "optimizer"


def _list_reached(loop: ast.AST, tree: ast.Module) -> list[ast.AST]:
    """The nodes of a loop, and those of the functions of the file that it calls."""
    inside = list(ast.walk(loop))
    called = {name_of(n.func) for n in inside if isinstance(n, ast.Call)}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in called:
            inside += list(ast.walk(function))
    return inside


def _depends_on_round(loop: ast.AST, node: ast.AST, tree: ast.Module) -> bool:
    """Whether the statement, or the call of its function, stands under a condition in the loop that
    compares the variable of the loop, as `if epoch == 5`.
    """
    counted = {n.id for n in ast.walk(getattr(loop, "target", loop)) if isinstance(n, ast.Name)}
    holders = [
        f.name
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef) and any(n is node for n in ast.walk(f))
    ]
    for test in (n for n in ast.walk(loop) if isinstance(n, ast.If)):
        named = {n.id for n in ast.walk(test.test) if isinstance(n, ast.Name)}
        body = [n for statement in test.body for n in ast.walk(statement)]
        is_in = any(n is node or name_of(n) in holders for n in body)
        if is_in and named & counted:
            return True
    return False


def _switches_on(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and name_of(node.func) == "requires_grad_":
        given = [*node.args, *(k.value for k in node.keywords)]
        return not given or not _is_false(given[0])
    is_set = isinstance(node, ast.Assign) and any(
        isinstance(t, ast.Attribute) and t.attr == "requires_grad" for t in node.targets
    )
    return isinstance(node, ast.Assign) and is_set and not _is_false(node.value)


def _is_open(node: ast.AST) -> bool:
    """Whether a variable says which of the two it is."""
    if isinstance(node, ast.Assign):
        return not isinstance(node.value, ast.Constant)
    given = [*node.args, *(k.value for k in node.keywords)] if isinstance(node, ast.Call) else []
    return any(not isinstance(each, ast.Constant) for each in given)


def _is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
