"""Finds functions that are to initialise weights, and do not: they are run once more, on a copy of
the model. And functions that a statement names and does not call.
"""

import ast
import contextlib
import copy
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.recorder.inventory import has_values
from cnnprobe.training.scopes import (
    Scope,
    asks,
    bind_models,
    list_assigned,
    list_live,
    list_own,
    make_slip,
)
from cnnprobe.training.sourcing import ClassText, FunctionText, find_text, name_of, read_file

LARGEST = 1 << 26  # elements of a model that is copied
DRAWS = frozenset(n for n in vars(nn.init) if n.endswith("_") and not n.startswith("_")) | {
    "normal_", "uniform_", "trunc_normal_", "orthogonal_", "xavier_uniform", "xavier_normal",
    "kaiming_uniform", "kaiming_normal", "orthogonal",
}  # fmt: skip
# They draw no random numbers: what they leave as it was may have been so before.
FILLS = frozenset({"zeros_", "ones_", "constant_", "eye_", "dirac_"})
# Methods of torch's that a loop calls for what they do.
METHODS = frozenset(
    {"step", "zero_grad", "backward", "eval", "train", "requires_grad_", "detach_", "cuda"}
)


def find_inits(
    model: nn.Module,
    classes: Sequence[ClassText],
    files: Sequence[str],
    names: frozenset[str],
    space: Mapping[str, Any],
) -> Iterator[Slip]:
    """The calls of apply() whose function leaves every weight of the model as it was; `names` are
    the variables that hold the model, and `space` is what the asking code can name.
    """
    if sum(p.numel() for p in model.parameters()) > LARGEST:
        return
    seen = set[str]()
    for path in files:
        tree = read_file(path)
        scopes = list(bind_models(tree, names).items()) if tree is not None else []
        applying = [s for s, _ in scopes if any(map(_is_apply, list_own(s)))]
        for scope, held in scopes:
            # a variable of another function may hold another model
            is_told = scope is tree or asks(scope) or applying == [scope]
            own = (held if is_told else set()) | _list_made(scope, type(model).__name__)
            for node in list_own(scope):
                if _is_apply(node) and ast.unparse(node.func.value) in own:  # type: ignore[attr-defined]
                    function = space.get(name_of(node.args[0]))  # type: ignore[attr-defined]
                    yield from _judge(model, node, path, function, seen)
    for each in classes:
        for text in each.texts:
            for node in ast.walk(text.node):
                if _is_apply(node) and ast.unparse(node.func.value) == "self":  # type: ignore[attr-defined]
                    function = _resolve(node.args[0], each)  # type: ignore[attr-defined]
                    yield from _judge(each.instances[0][1], node, text.path, function, seen)


def _list_made(scope: Scope, kind: str) -> set[str]:
    """The variables that are assigned a new object of a class."""
    return {
        ast.unparse(target)
        for node in list_own(scope)
        if isinstance(node, ast.Assign)
        for target, value in list_assigned(node)
        if isinstance(value, ast.Call) and name_of(value.func) == kind != "Sequential"
    }


def _is_apply(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "apply"
        and len(node.args) == 1
    )


def _resolve(given: ast.expr, each: ClassText) -> Any:
    """What a constructor gives to apply: a method of the module, or a function of its file."""
    if isinstance(given, ast.Attribute) and name_of(given.value) == "self":
        return getattr(each.instances[0][1], given.attr, None)
    constructor = vars(each.kind).get("__init__")
    return getattr(constructor, "__globals__", {}).get(name_of(given))


def _judge(
    module: nn.Module, node: ast.AST, path: str, function: Any, seen: set[str]
) -> Iterator[Slip]:
    text = find_text(function) if callable(function) else None
    if text is None or text.name in seen or not _draws(text.node):
        return
    seen.add(text.name)
    if not _changes_weights(module, function):
        tested = ", ".join(dict.fromkeys(_list_tested(text.node)))
        present = {kind.__name__ for m in module.modules() for kind in type(m).__mro__}
        missing = tested and not present & set(tested.split(", "))
        yield make_slip(
            "init-of-others" if missing else "init-of-copies", node, path, text.name,
            tested if missing else f"{text.path}:{text.node.lineno}",
        )  # fmt: skip


def _draws(node: ast.AST) -> bool:
    called = {name_of(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
    return bool(called & (DRAWS - FILLS))


def _list_tested(node: ast.AST) -> Iterator[str]:
    """The classes that a function asks for by isinstance."""
    for n in ast.walk(node):
        if isinstance(n, ast.Call) and name_of(n.func) == "isinstance" and len(n.args) == 2:
            kinds = n.args[1].elts if isinstance(n.args[1], ast.Tuple) else [n.args[1]]
            yield from (name_of(kind) for kind in kinds)


def _changes_weights(module: nn.Module, function: Callable[..., Any]) -> bool:
    """Whether the function, applied to a copy, changes a parameter that is no bias, or cannot be
    applied.
    """
    try:
        aside = copy.deepcopy(module)
        bound = getattr(function, "__self__", None)
        if bound is module:
            function = getattr(aside, function.__name__)
        weights = [
            p for name, p in aside.named_parameters()
            if not name.endswith("bias") and has_values(p)
        ]  # fmt: skip
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            for p in weights:  # it may have been applied before: other values than it would give
                p.copy_(torch.linspace(0.3, 0.7, p.numel()).view(p.shape))
            before = [(p, p.clone()) for p in weights]
            aside.apply(function)
        after = {id(p) for p in aside.parameters()}
        return not before or any(id(p) not in after or not torch.equal(p, old) for p, old in before)
    except Exception:  # it wants more than a module
        return True


# -- statements without a call ---------------------------------------------------------------------


def find_uncalled(files: Sequence[str], steps: Sequence[FunctionText]) -> Iterator[Slip]:
    """The statements that are the name of a method, or of a function of the same file, and nothing
    more; and those that are a comparison.
    """
    for path in files:
        tree = read_file(path)
        if tree is None:
            continue
        defined = {
            n.name
            for n in ast.walk(tree)
            if isinstance(n, ast.FunctionDef) and not n.decorator_list
        }
        scopes = {id(s): s for s in (*list_live(path, steps), *_list_methods(tree))}
        for scope in scopes.values():
            for node in list_own(scope):
                value = node.value if isinstance(node, ast.Expr) else None
                if isinstance(value, ast.Compare) and isinstance(value.ops[0], ast.Eq):
                    yield make_slip("compared", value, path, ast.unparse(value.left))
                    continue
                if isinstance(value, ast.Attribute):
                    is_function = value.attr in METHODS | defined
                else:
                    is_function = isinstance(value, ast.Name) and value.id in defined
                if is_function and value is not None:
                    yield make_slip("uncalled", value, path, name_of(value))


def _list_methods(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for kind in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        yield from (n for n in kind.body if isinstance(n, ast.FunctionDef))
