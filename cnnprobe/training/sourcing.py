"""Finds the text of the user's functions and classes that a diagnosis runs."""

import ast
import functools
import inspect
import linecache
import os
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnprobe.recorder.inventory import class_of, named_modules
from cnnprobe.recorder.sources import is_users
from cnnprobe.training.surroundings import Surroundings

Function = ast.FunctionDef
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# names with which a function may read any variable or attribute
DYNAMIC = frozenset({"locals", "vars", "save_hyperparameters", "__dict__", "globals", "eval"})
_EXAMPLES = f"{os.sep}cnnprobe{os.sep}rulebook{os.sep}"  # of the rules themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionText:
    """A function of the user's: its tree, its file, and the modules whose method it is."""

    node: Function
    path: str
    owner: str = ""  # the class
    modules: tuple[str, ...] = ()  # fqns

    @property
    def name(self) -> str:
        """As it is spoken of: "Block.forward"."""
        return f"{self.owner}.{self.node.name}" if self.owner else self.node.name

    @property
    def module(self) -> str | None:
        """The first of the modules."""
        return self.modules[0] if self.modules else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassText:
    """A class of modules of the user's: its methods by name, its constructors, its instances."""

    kind: type
    methods: dict[str, FunctionText]
    texts: tuple[FunctionText, ...]  # with those that others override
    constructors: tuple[FunctionText, ...]
    instances: tuple[tuple[str, nn.Module], ...]


def is_own_file(path: str) -> bool:
    """Whether a file is the user's, and no installed package's.

    >>> is_own_file(nn.__file__)
    False
    """
    if _EXAMPLES in path:
        return True
    return is_users(path) and not any(part in path for part in _INSTALLED)


@functools.lru_cache(maxsize=64)
def read_file(path: str) -> ast.Module | None:
    """The tree of a file; None where it has no text or is no Python."""
    try:
        return ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError, RecursionError):
        return None


@functools.lru_cache(maxsize=64)
def _index_functions(path: str) -> dict[int, Function]:
    tree = read_file(path)
    return {
        line: node
        for node in (ast.walk(tree) if tree is not None else ())
        if isinstance(node, ast.FunctionDef)
        for line in (node.lineno, *(d.lineno for d in node.decorator_list[:1]))
    }


def find_text(function: Any, owner: str = "", modules: tuple[str, ...] = ()) -> FunctionText | None:
    """The text of a function of the user's; None where there is none."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if not isinstance(code, types.CodeType) or not is_own_file(code.co_filename):
        return None
    node = _index_functions(code.co_filename).get(code.co_firstlineno)
    if node is None or node.name != code.co_name:
        return None
    return FunctionText(node=node, path=code.co_filename, owner=owner, modules=modules)


def list_classes(model: nn.Module) -> list[ClassText]:
    """The user's classes of the modules of a model, in order."""
    found: dict[type, list[tuple[str, nn.Module]]] = {}
    for fqn, module, first in named_modules(model):
        if first:
            found.setdefault(class_of(module), []).append((fqn, module))
    texts = (_read_class(kind, tuple(members)) for kind, members in found.items())
    return [text for text in texts if text.methods]


def _read_class(kind: type, instances: tuple[tuple[str, nn.Module], ...]) -> ClassText:
    methods: dict[str, FunctionText] = {}
    texts, constructors = [], []
    fqns = tuple(fqn for fqn, _ in instances)
    for base in kind.__mro__:
        for name, value in list(vars(base).items()):
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if not isinstance(function, types.FunctionType):
                continue
            text = find_text(function, base.__name__, fqns)
            if text is None:
                continue
            methods.setdefault(name, text)
            texts.append(text)
            if name == "__init__" and base is kind:
                constructors.append(text)
    return ClassText(
        kind=kind, methods=methods, texts=tuple(texts), constructors=tuple(constructors),
        instances=instances,
    )  # fmt: skip


def list_functions(around: Surroundings) -> list[FunctionText]:
    """The functions of the user's that the step is made of, without those of modules."""
    texts = (find_text(function) for function in around.functions)
    return [text for text in texts if text is not None]


def list_blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks of statements of a function or file, its own first, without inner functions."""
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
            yield block
            for inner in block:
                if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    yield from list_blocks(inner)


def name_of(node: ast.AST) -> str:
    """The last part of a name or an attribute; "" of anything else."""
    return getattr(node, "attr", "") or getattr(node, "id", "")


def list_loads(node: ast.AST, name: str) -> list[ast.Name]:
    """Where a name is read; a `del` counts, as it says that nothing is meant to."""
    return [
        n
        for n in ast.walk(node)
        if isinstance(n, ast.Name) and n.id == name and not isinstance(n.ctx, ast.Store)
    ]
