"""Finds settings of the user's own objects that the use of these objects overwrites: read from the
text of their classes, and from what they hold before and after the steps.
"""

import ast
import contextlib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Overwritten
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.training.surroundings import Surroundings

LARGEST = 1 << 16  # elements of a tensor that is compared
_SELECTING = frozenset({"gather", "index_select", "take", "take_along_dim", "masked_select"})
_EVALUATING = ("eval", "evaluate", "validate")  # methods that are called to evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A statement of a method that overwrites a setting of the constructor's."""

    attribute: str
    kind: str  # "evaluation" | "selection" | "bound", as in Overwritten
    method: str
    text: str
    source: str
    value: float | None = None  # the constant that is written


@contextlib.contextmanager
def watch_settings(model: nn.Module, around: Surroundings) -> Iterator[list[Overwritten]]:
    """Fills the list at the end with the settings that the statements within have overwritten, or
    that an evaluation will.
    """
    found: list[Overwritten] = []
    watched = [
        (name, subject, store, _copy(getattr(subject, store.attribute, None)))
        for name, subject in list_subjects(model, around)
        for store in read_class(subject.__class__)
    ]
    fqns = {id(module): fqn for fqn, module, first in named_modules(model) if first}
    yield found
    for name, subject, store, before in watched:
        after = getattr(subject, store.attribute, None)
        if store.kind == "evaluation" or not _is_same(before, after):
            found.append(
                Overwritten(
                    owner=fqns.get(id(subject), name),
                    type=type(subject).__name__,
                    attribute=store.attribute,
                    kind=store.kind,
                    method=store.method,
                    text=store.text,
                    source=store.source,
                    before=_describe(before),
                    after=_describe(after if store.value is None else store.value),
                    module=id(subject) in fqns,
                )
            )


def list_subjects(model: nn.Module, around: Surroundings) -> Iterator[tuple[str, Any]]:
    """The modules and other objects of the user's classes that the step works with, each once."""
    seen: set[int] = set()
    roots = {id(model): ("", model)} | {
        key: (name, root) for key, (name, root) in around.models.items() if root is not model
    }
    for prefix, root in roots.values():
        for fqn, module, _ in named_modules(root):
            if id(module) not in seen:
                seen.add(id(module))
                yield ".".join(part for part in (prefix, fqn) if part), module
    for name, read, _ in around.variables:
        subject = read()
        if id(subject) not in seen and hasattr(subject, "__dict__") and _is_users(type(subject)):
            seen.add(id(subject))
            yield name, subject


def _is_users(kind: type) -> bool:
    return not kind.__module__.startswith(("torch", "builtins", "numpy"))


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _is_same(before: Any, after: Any) -> bool:
    """Whether it was not overwritten with other values; another dtype or device is the same."""
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return type(before) is type(after) and bool(before == after)
    if before.shape != after.shape or before.numel() > LARGEST:
        return before.shape == after.shape
    return bool(torch.equal(before.double().cpu(), after.detach().double().cpu()))


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(float(f"{value:.4g}")) if isinstance(value, float) else repr(value)


# -- what the text of a class says -----------------------------------------------------------------


@functools.cache
def read_class(kind: type) -> tuple[Store, ...]:
    """The statements of a class of the user's that overwrite what its constructor was given."""
    methods: list[ast.FunctionDef] = []
    files: dict[str, str] = {}
    for base in kind.__mro__:
        for method in _read_methods(base) if _is_users(base) else ():
            if method.name == "__init__" or method.name not in files:
                methods.append(method)
                files.setdefault(method.name, inspect.getsourcefile(base) or "")
    given = _list_given(methods)
    later = [(m, s) for m in methods if m.name != "__init__" for s in _list_stores(m)]
    return tuple(
        Store(
            attribute=attribute,
            kind=judged,
            method=method.name,
            text=ast.unparse(statement),
            source=f"{files[method.name]}:{statement.lineno}",
            value=_read_number(statement.value),
        )
        for method, statement in later
        if (attribute := _stored(statement)) in given
        and sum(_stored(other) == attribute for _, other in later) == 1
        and isinstance(statement, ast.Assign)
        and (judged := _judge(method, statement, attribute)) is not None
    )


def _read_methods(kind: type) -> list[ast.FunctionDef]:
    """The methods in a class's own text, with the lines of its file."""
    try:
        lines, first = inspect.getsourcelines(kind)
        tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return []  # typed in, or made by a program
    ast.increment_lineno(tree, first - 1)
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return [node for node in body if isinstance(node, ast.FunctionDef)]


def _list_given(methods: list[ast.FunctionDef]) -> set[str]:
    """The attributes that the constructor makes of its arguments."""
    found = set()
    for method in methods:
        arguments = {a.arg for a in (*method.args.args[1:], *method.args.kwonlyargs)}
        for statement in _list_stores(method) if method.name == "__init__" else ():
            value = statement.value
            if value is not None and arguments & _list_names(value):
                found |= _list_stored(statement)
    return found


def _list_stores(method: ast.FunctionDef) -> list[ast.Assign | ast.AugAssign | ast.AnnAssign]:
    kinds = (ast.Assign, ast.AugAssign, ast.AnnAssign)
    return [n for n in ast.walk(method) if isinstance(n, kinds) and _list_stored(n)]


def _list_stored(statement: ast.Assign | ast.AugAssign | ast.AnnAssign) -> set[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    parts = [p for t in targets for p in (t.elts if isinstance(t, ast.Tuple) else [t])]
    return {part.attr for part in parts if isinstance(part, ast.Attribute) and _is_own(part)}


def _stored(statement: ast.Assign | ast.AugAssign | ast.AnnAssign) -> str:
    """The one attribute that a statement sets; "" where it sets several."""
    stored = _list_stored(statement)
    return stored.pop() if len(stored) == 1 else ""


def _is_own(node: ast.AST, attribute: str | None = None) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and attribute in (None, node.attr)
    )


def _list_names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _judge(method: ast.FunctionDef, statement: ast.Assign, attribute: str) -> str | None:
    """Which way the statement overwrites the setting; None where it may be meant."""
    value = statement.value
    if _read_number(value) is not None:
        is_meant = method.name in ("__setstate__", "train")
        evaluates = method.name in _EVALUATING or _is_for_evaluation(method, statement)
        return "evaluation" if evaluates and not is_meant else None
    if _selects(value, attribute):
        return "selection"
    return "bound" if _transforms_bound(value, attribute) else None


def _read_number(node: ast.AST) -> float | None:
    is_number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return float(node.value) if is_number else None  # type: ignore[attr-defined]


def _is_for_evaluation(method: ast.FunctionDef, statement: ast.Assign) -> bool:
    """Whether the statement is run where self.training is false, and nowhere else."""
    for node in ast.walk(method):
        if not isinstance(node, ast.If):
            continue
        test = node.test
        branch = node.body if isinstance(test, ast.UnaryOp) else node.orelse
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test = test.operand
        if _is_own(test, "training") and statement in branch:
            return True
    return False


def _selects(value: ast.AST, attribute: str) -> bool:
    """Whether the new value is a part of the old: by gather, by an index that is no constant."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        is_own = _is_own(value.func.value, attribute)
        is_given = any(_is_own(argument, attribute) for argument in value.args)
        return value.func.attr in _SELECTING and (is_own or is_given)
    if isinstance(value, ast.Subscript) and _is_own(value.value, attribute):
        return isinstance(value.slice, ast.Name | ast.Call)
    return False


def _transforms_bound(value: ast.AST, attribute: str) -> bool:
    """Whether the setting is a bound in min or max, and what is made of the result replaces it."""
    bounded = [
        node
        for node in ast.walk(value)
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", "") in ("min", "max"))
        and any(_is_own(argument, attribute) for argument in node.args)
    ]
    reads: Callable[[ast.AST], bool] = lambda node: _is_own(node, attribute)  # noqa: E731
    return bool(bounded) and value not in bounded and sum(map(reads, ast.walk(value))) == 1
