"""Reads the scopes of a file: what its variables are assigned, and which of them hold the model."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.sourcing import FunctionText, name_of, read_file

Scope = ast.Module | ast.FunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """What a variable is assigned, where, and which of several values it is."""

    at: tuple[int, int]
    end: tuple[int, int]
    value: ast.expr
    place: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One scope of a file, with the variables that hold the model there."""

    scope: Scope
    path: str
    models: frozenset[str]
    assigned: Mapping[str, list[Assigned]]
    bound: frozenset[str]  # its arguments, and the variables of its loops


def open_scope(scope: Scope, path: str, models: frozenset[str]) -> Reader:
    """A scope of a file, read."""
    assigned: dict[str, list[Assigned]] = defaultdict(list)
    bound: set[str] = set()
    for node in list_own(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                places = list(enumerate(target.elts)) if isinstance(target, ast.Tuple) else []
                for place, part in [(None, target), *places]:
                    if isinstance(part, ast.Name):
                        assigned[part.id].append(_note(node, place))
        elif isinstance(node, ast.For | ast.comprehension):
            bound |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
    return Reader(scope=scope, path=path, models=models, assigned=assigned, bound=frozenset(bound))


def _note(node: ast.Assign, place: int | None) -> Assigned:
    end = (node.end_lineno or 0, node.end_col_offset or 0)
    return Assigned(at=(node.lineno, node.col_offset), end=end, value=node.value, place=place)


def bind_models(
    tree: ast.Module, models: frozenset[str], steps: Sequence[FunctionText] = ()
) -> Mapping[Scope, frozenset[str]]:
    """The scopes of a file, each with the names that hold the model: also those of the arguments
    that it is passed for, and of what these are assigned to. An argument of the same name holds it
    in the functions of the step and in that which asks, and where it is passed.
    """
    ran = {id(step.node) for step in steps}
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    called = [(f.name, f) for f in functions if f.name != "__init__"]
    for kind in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        called += [(kind.name, f) for f in functions if f in kind.body and f.name == "__init__"]
    scopes: list[Scope] = [tree, *functions]
    known = {s: models if id(s) in ran or asks(s) else models - _list_arguments(s) for s in scopes}
    for _ in range(3):
        attributes = frozenset(_list_kept(known))
        for scope in scopes:
            known[scope] |= attributes
            for call in (n for n in list_own(scope) if isinstance(n, ast.Call)):
                for function in (f for name, f in called if name == name_of(call.func)):
                    known[function] |= _bind(call, function, known[scope])
    return known


def asks(scope: Scope) -> bool:
    """Whether a scope calls diagnose(), so that the names are those of its variables."""
    return any(isinstance(n, ast.Call) and name_of(n.func) == "diagnose" for n in list_own(scope))


def _list_arguments(scope: Scope) -> set[str]:
    return {n.arg for n in list_own(scope) if isinstance(n, ast.arg)}


def _list_kept(known: Mapping[Scope, frozenset[str]]) -> Iterator[str]:
    """The attributes that a variable which holds the model is assigned to: "self.net"."""
    for scope, held in known.items():
        for node in list_own(scope):
            if isinstance(node, ast.Assign):
                for target, value in list_assigned(node):
                    if isinstance(target, ast.Attribute) and ast.unparse(value) in held:
                        yield ast.unparse(target)


def list_assigned(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What a statement assigns, one by one where both sides are written so."""
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=False)
        else:
            yield target, node.value


def _bind(call: ast.Call, function: ast.FunctionDef, held: frozenset[str]) -> frozenset[str]:
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    names = names[1:] if names[:1] == ["self"] else names
    pairs = [*zip(names, call.args, strict=False), *((k.arg, k.value) for k in call.keywords)]
    return frozenset(name for name, value in pairs if name and ast.unparse(value) in held)


def list_own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope without those of its inner functions."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from list_own(child)


def find_assigned(node: ast.Name, reader: Reader) -> Assigned | None:
    """What a variable was last assigned before a place, in the same scope."""
    here = (node.lineno, node.col_offset)
    before = [each for each in reader.assigned.get(node.id, ()) if each.end <= here]
    return max(before, key=lambda each: each.at) if before else None


def make_slip(kind: str, node: ast.AST, path: str, name: str, value: str = "") -> Slip:
    """What is found at a node of a file."""
    return Slip(
        kind=kind, text=ast.unparse(node).splitlines()[0], name=name, value=value,
        source=f"{path}:{node.lineno}",  # type: ignore[attr-defined]
    )  # fmt: skip


def list_live(path: str, steps: Sequence[FunctionText]) -> list[Scope]:
    """A file, and its functions that belong to the step, or that something there calls."""
    tree = read_file(path)
    if tree is None:
        return []
    ran = {id(step.node) for step in steps}
    called = {name_of(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return [tree, *(f for f in functions if id(f) in ran or f.name in called)]
