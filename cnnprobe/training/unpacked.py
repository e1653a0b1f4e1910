"""Finds names that the functions of a step unpack, or take as arguments, and never read."""

import ast
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator

from cnnprobe.diagnosis.evidence import UnpackedName
from cnnprobe.training.surroundings import Surroundings, is_own

FEWEST = 2  # names in an unpacking, of which another is read
SIZES = ("shape",)  # of a tensor: its numbers are no part of the batch


def find_unpacked(around: Surroundings) -> tuple[UnpackedName, ...]:
    """What the user's functions unpack or take and never read."""
    codes = {f.__code__: f for f in _list_functions(around) if is_own(f.__code__)}
    return tuple(found for function in codes.values() for found in _find_in(function))


def _list_functions(around: Surroundings) -> list[types.FunctionType]:
    """The functions of a step, with the methods of the user's objects that they name."""
    values = [read() for _, read, _ in around.variables]
    values += [model for _, model in around.models.values()]
    kinds = {base for value in values for base in type(value).__mro__}
    own = [kind for kind in kinds if not kind.__module__.startswith(("torch", "builtins"))]
    methods = [f for kind in own for f in vars(kind).values() if inspect.isfunction(f)]
    found = list(around.functions)
    for function in found:  # grows
        named = set(function.__code__.co_names)
        found += [f for f in methods if f.__name__ in named and f not in found]
    return found


def _find_in(function: types.FunctionType) -> Iterator[UnpackedName]:
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return  # typed in, made by a program, or a lambda within a line
    if not isinstance(tree, ast.FunctionDef) or _is_open(tree):
        return
    ast.increment_lineno(tree, first - 1)
    nodes = [n for statement in tree.body for n in ast.walk(statement)]
    read = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Store)}
    file = function.__code__.co_filename

    def describe(names: Iterable[tuple[str, int]], *, is_argument: bool) -> Iterator[UnpackedName]:
        for name, line in names:
            if name not in read and not name.startswith("_"):
                yield UnpackedName(
                    name=name, function=tree.name, source=f"{file}:{line}", is_argument=is_argument
                )

    arguments = [*tree.args.args, *tree.args.kwonlyargs]
    yield from describe(((a.arg, a.lineno) for a in arguments), is_argument=True)
    for names in map(_list_unpacked, nodes):
        if any(name in read for name, _ in names):
            yield from describe(names, is_argument=False)


def _is_open(tree: ast.FunctionDef) -> bool:
    """Whether a function reads its names in another way, or is no more than a place for another."""
    calls = {
        n.func.id
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    body = [
        s for s in tree.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
    ]
    return bool(calls & {"locals", "vars", "eval", "exec"}) or all(
        isinstance(s, ast.Pass | ast.Raise) for s in body
    )


def _list_unpacked(node: ast.AST) -> list[tuple[str, int]]:
    """The names that a statement unpacks a plain variable to, with their lines."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Name | ast.Attribute):
        return []
    if isinstance(node.value, ast.Attribute) and node.value.attr in SIZES:
        return []
    tuples = [t for t in node.targets if isinstance(t, ast.Tuple | ast.List)]
    names = [n for t in tuples for n in t.elts if isinstance(n, ast.Name)]
    return [(n.id, n.lineno) for n in names] if len(names) >= FEWEST else []
