"""Finds modules with a backward of their own, which autograd never calls."""

import ast
import inspect
import linecache
from collections.abc import Iterator

from torch import nn

from cnnprobe.diagnosis.evidence import IdleAttribute
from cnnprobe.recorder.inventory import class_of, named_modules
from cnnprobe.training.surroundings import Surroundings


def find_idle_backward(model: nn.Module, around: Surroundings) -> Iterator[IdleAttribute]:
    """The classes that define `backward(self, gradient, ...)`, each once with its modules."""
    owners: dict[type, list[str]] = {}
    for fqn, module, first in named_modules(model):
        if first and _defines_backward(class_of(module)):
            owners.setdefault(class_of(module), []).append(fqn)
    if not owners or any(map(_calls_backward, _list_files(around, owners))):
        return
    for kind, fqns in owners.items():
        code = inspect.unwrap(vars(kind)["backward"]).__code__
        yield IdleAttribute(
            holder="method",
            owners=tuple(fqns),
            attribute="backward",
            meant="torch.autograd.Function",
            actual=kind.__name__,
            source=f"{code.co_filename}:{code.co_firstlineno}",
        )


def _defines_backward(kind: type) -> bool:
    """Whether a class itself has a backward that takes a gradient, and no library asks for it."""
    function = inspect.unwrap(vars(kind).get("backward") or len)
    if not inspect.isfunction(function) or len(inspect.signature(function).parameters) < 2:
        return False
    inherited = any("backward" in vars(base) for base in kind.__mro__[1:])
    names = function.__code__.co_names  # one that calls loss.backward() is called by the loop
    return not inherited and not {"backward", "grad", "autograd"} & set(names)


def _list_files(around: Surroundings, owners: dict[type, list[str]]) -> set[str]:
    """The files of the step and of the classes, where a call by hand would stand."""
    files = {function.__code__.co_filename for function in around.functions}
    files |= {inspect.unwrap(vars(kind)["backward"]).__code__.co_filename for kind in owners}
    return files


def _calls_backward(path: str) -> bool:
    """Whether a file calls a backward with a gradient: layer.backward(gradient)."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return True
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "backward"
        and bool(node.args)
        for node in ast.walk(tree)
    )
