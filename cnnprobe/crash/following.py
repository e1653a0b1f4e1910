"""What comes after a failing part of the loop, run on a value in its place: torch's functions.

A repair of one part is no repair where the next line raises for it.
"""

import ast
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from cnnprobe.crash.facts.source import WRITING
from cnnprobe.crash.facts.trees import parse_file
from cnnprobe.crash.facts.values import read_attribute
from cnnprobe.crash.model_copy import hush
from cnnprobe.operations import find_function

_MOST = 4  # statements after the failing one
_FAILED = "_failed"  # the name of the value that stands in the place of the failing part
_PLAIN = (ast.Assign, ast.AnnAssign, ast.Return, ast.Expr)
_IMPURE = (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr, ast.Lambda)


def follow(
    path: str, node: ast.AST, names: dict[str, Any]
) -> Callable[[Any, Mapping[str, Callable[[Any], Any]]], bool]:
    """Whether what follows a part of a file's runs with a value for it, as far as it is torch's."""
    statements = list(_list_statements(path, node))

    def runs(value: Any, changes: Mapping[str, Callable[[Any], Any]]) -> bool:
        scope = {**names, _FAILED: value}
        scope |= {key: change(names[key]) for key, change in changes.items() if key in names}
        if any(isinstance(t, Tensor) and t.is_meta for t in tree_leaves(value)):
            return True
        for statement in statements:
            if not isinstance(statement, _PLAIN) or not _is_pure(statement, scope):
                return True
            try:
                with hush():
                    _run(statement, path, scope)
            except (NameError, TypeError, AttributeError, SyntaxError):  # it is not known enough
                return True
            except Exception:  # it does not fit there
                return False
        return True

    return runs


def _list_statements(path: str, node: ast.AST) -> Iterator[ast.stmt]:
    """The statement of the part, with a name in its place, and those after it in its block."""
    for block in _list_blocks(parse_file(path)):
        for i, statement in enumerate(block):
            nodes = list(ast.walk(statement))
            if not any(each is node for each in nodes) or not isinstance(statement, _PLAIN):
                continue
            memo: Any = {id(node): ast.Name(id=_FAILED, ctx=ast.Load())}
            yield ast.fix_missing_locations(copy.deepcopy(statement, memo))
            yield from block[i + 1 : i + 1 + _MOST]
            return


def _list_blocks(tree: ast.AST | None) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree) if tree is not None else ():
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block


def _run(statement: ast.stmt, path: str, scope: dict[str, Any]) -> None:
    """Run a statement on copies of its tensors."""
    if isinstance(statement, ast.Return):
        statement = ast.Expr(statement.value or ast.Constant(value=None))
    read = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
    scope |= {key: tree_map(_detach, scope[key]) for key in read if _holds_tensors(scope.get(key))}
    tree = ast.fix_missing_locations(ast.Module([statement], type_ignores=[]))
    exec(compile(tree, path, "exec"), scope)  # noqa: S102 - the user's own line


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor | list | tuple | dict)


def _detach(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _is_pure(statement: ast.stmt, scope: dict[str, Any]) -> bool:
    """Whether it only computes: with functions of torch's, and losses, into names."""
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    stored = [n for t in targets if t is not None for n in ast.walk(t)]
    if any(isinstance(n, ast.Attribute | ast.Subscript) for n in stored):
        return False
    nodes = list(ast.walk(statement))
    if any(isinstance(n, _IMPURE) for n in nodes):
        return False
    return all(_is_pure_call(n.func, scope) for n in nodes if isinstance(n, ast.Call))


def _is_pure_call(function: ast.expr, scope: dict[str, Any]) -> bool:
    value = read_attribute(function, scope)
    if isinstance(value, nn.Module):
        return type(value).__module__ == "torch.nn.modules.loss"
    if isinstance(function, ast.Name):
        return str(getattr(value, "__module__", "")).startswith("torch") and callable(value)
    if not isinstance(function, ast.Attribute) or function.attr.endswith("_"):
        return False
    owner = read_attribute(function.value, scope)
    if isinstance(owner, type(torch)):
        return owner.__name__.startswith("torch") and find_function(function.attr) is not None
    is_method = hasattr(Tensor, function.attr) and function.attr not in WRITING
    return is_method and (isinstance(owner, Tensor) or not isinstance(function.value, ast.Name))
