"""Finds in the text of a program where a learning rate is changed and nothing that trains reads
it, or where it waits for the wrong number.
"""

import ast
from collections.abc import Iterator

import torch.optim
from torch.optim import lr_scheduler

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.kept_weights import tell_better
from cnnprobe.training.scopes import Scope, list_assigned, list_live, list_own, make_slip
from cnnprobe.training.sourcing import FunctionText, list_blocks, name_of, read_file

_PLATEAU = "ReduceLROnPlateau"
_SCHEDULERS = frozenset(n for n, v in vars(lr_scheduler).items() if isinstance(v, type))
_OPTIMIZERS = frozenset(n for n, v in vars(torch.optim).items() if isinstance(v, type))


def find_schedules(files: list[str], steps: list[FunctionText]) -> Iterator[Slip]:
    """What these files do with a learning rate that cannot be meant; `steps` are the functions of
    the step.
    """
    for path in files:
        tree = read_file(path)
        if tree is None:
            continue
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        yield from _find_plateaus(tree, path)
        scopes: list[Scope] = [tree, *functions]
        for scope in scopes:
            yield from _find_old(scope, tree, path)
        for scope in list_live(path, steps):
            yield from _find_copied(scope, path)


def _find_plateaus(tree: ast.Module, path: str) -> Iterator[Slip]:
    """The plateaus that are given a number of which the other direction is better."""
    modes: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        for target, value in list_assigned(node) if isinstance(node, ast.Assign) else ():
            if isinstance(value, ast.Call) and name_of(value.func) == _PLATEAU:
                modes.setdefault(ast.unparse(target), set()).add(_read_mode(value))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr != "step" or not node.args:
            continue
        name = ast.unparse(node.func.value)
        better = {"less": "min", "greater": "max"}.get(tell_better(ast.unparse(node.args[0])), "")
        if better and modes.get(name, {better}) == {"max" if better == "min" else "min"}:
            yield make_slip("plateau", node, path, name, better)


def _read_mode(call: ast.Call) -> str:
    """The mode of a plateau; "" where it is not written down."""
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[1:2]
    if any(k.arg is None for k in call.keywords) or any(
        isinstance(a, ast.Starred) for a in call.args
    ):
        return ""
    if not given:
        return "min"
    return str(given[0].value) if isinstance(given[0], ast.Constant) else ""


def _find_old(scope: Scope, tree: ast.Module, path: str) -> Iterator[Slip]:
    """The schedulers of an optimizer whose variable gets another one before anything trains."""
    for block in list_blocks(scope):
        made: dict[str, ast.Call] = {}
        old: dict[str, Slip] = {}
        for node in block:
            if isinstance(node, ast.For | ast.While | ast.Expr | ast.With):
                made.clear()  # it may train with what was made so far
            for target, call in list_assigned(node) if isinstance(node, ast.Assign) else ():
                name = ast.unparse(target)
                old.pop(name, None)
                if isinstance(call, ast.Call):
                    if name_of(call.func) in _OPTIMIZERS:
                        old |= {slip.name: slip for slip in _list_old(name, made, tree, path)}
                    made[name] = call
        yield from old.values()


def _list_old(
    optimizer: str, made: dict[str, ast.Call], tree: ast.Module, path: str
) -> Iterator[Slip]:
    """The schedulers of the optimizer that the variable held before."""
    for name, call in made.items():
        is_scheduler = name_of(call.func) in _SCHEDULERS and bool(call.args)
        if is_scheduler and ast.unparse(call.args[0]) == optimizer and _steps(tree, name):
            yield make_slip("old-optimizer", call, path, name, optimizer)


def _steps(tree: ast.Module, name: str) -> bool:
    calls = (n for n in ast.walk(tree) if isinstance(n, ast.Call))
    return any(ast.unparse(c.func) == f"{name}.step" for c in calls)


def _find_copied(scope: Scope, path: str) -> Iterator[Slip]:
    """The loops over the groups of an optimizer that assign their own variable, and write to no
    group.
    """
    for node in list_own(scope):
        if isinstance(node, ast.For) and name_of(node.iter) == "param_groups":
            yield from _judge_loop(node, path)


def _judge_loop(loop: ast.For, path: str) -> Iterator[Slip]:
    if not isinstance(loop.target, ast.Name):
        return
    name = loop.target.id
    inner = [n for statement in loop.body for n in ast.walk(statement)]
    again = [n for n in inner if isinstance(n, ast.Assign) and _assigns(n, name)]
    copied = {id(part) for n in again for part in ast.walk(n.value)}
    calls = [n for n in inner if isinstance(n, ast.Call) and id(n) not in copied]
    is_used = any(
        ast.unparse(c.func).startswith(f"{name}.") or name in map(ast.unparse, c.args)
        for c in calls
    )
    stores = [n for n in inner if isinstance(getattr(n, "ctx", None), ast.Store)]
    if again and not is_used and not any(isinstance(n, ast.Subscript) for n in stores):
        yield make_slip("group-copied", again[0], path, name, ast.unparse(loop.iter))


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(ast.unparse(target) == name for target in node.targets)
