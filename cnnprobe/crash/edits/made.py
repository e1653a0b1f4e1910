"""Where in the user's files a model of torch's own classes is made: a Sequential at the top level,
or in a function that returns it.
"""

import ast
import functools
import inspect
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.edits.files import File, UnknownPlaceError, open_file
from cnnprobe.recorder.inventory import class_of

_OURS = str(Path(__file__).parents[2])


def find_made(model: nn.Module) -> tuple[File, ast.Call]:
    """The only call that makes a model of these layers: where a name of the file is the model, in
    that file; else in any file of the user's, with all layers written out in the call, since a
    Sequential of names may be any other.
    """
    for are_held in (True, False):
        found = [
            (path, node)
            for path in _list_paths(model, are_held=are_held)
            for node in _list_calls_of(class_of(model).__name__, path)
            if _makes(node, model, by_name=are_held)
        ]
        if len(found) == 1:
            path, node = found[0]
            return open_file(path), node
        if found:
            break
    raise UnknownPlaceError


def _list_calls_of(name: str, path: str) -> tuple[ast.Call, ...]:
    """The calls of a name in a file; none where the file cannot be read."""
    try:
        stat = Path(path).stat()
        return _read_calls(name, path, (stat.st_mtime_ns, stat.st_size))
    except (OSError, SyntaxError, ValueError):
        return ()


# Every fix of a model asks all files of the process. Their calls are kept, and not their trees:
# those of a large project are millions of objects, which each garbage collection would visit.
@functools.lru_cache(maxsize=4096)
def _read_calls(name: str, path: str, _changed: tuple[int, int]) -> tuple[ast.Call, ...]:
    with tokenize.open(path) as file:
        text = file.read()
    if name not in text:
        return ()
    nodes = ast.walk(ast.parse(text))
    return tuple(node for node in nodes if isinstance(node, ast.Call) and _name(node) == name)


def _list_paths(model: nn.Module, *, are_held: bool) -> Iterator[str]:
    """The user's imported files, of which one of the names is the model if `are_held`."""
    library = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    seen: set[str] = set()
    for module in list(sys.modules.values()):
        names: dict[str, Any] = getattr(module, "__dict__", {})
        path = names.get("__file__")
        if not isinstance(path, str) or not path.endswith(".py") or path in seen:
            continue
        if path.startswith((_OURS, *library)):
            continue
        if not are_held or any(value is model for value in list(names.values())):
            seen.add(path)
            yield path


def _makes(node: ast.Call, module: nn.Module, *, by_name: bool) -> bool:
    """Whether a call makes a module: its class, its numbers, and the layers written out in it, or
    given by a name.
    """
    if _name(node) != class_of(module).__name__:
        return False
    if not isinstance(module, nn.Sequential | nn.ModuleList):
        return all(_is_setting(module, *given) for given in _list_numbers(node, module))
    is_list = len(node.args) == 1 and isinstance(node.args[0], ast.List)
    members = node.args[0].elts if is_list else node.args  # type: ignore[attr-defined]
    children = list(module.children())
    return len(members) == len(children) and all(
        _makes(member, child, by_name=by_name)
        if isinstance(member, ast.Call)
        else by_name and isinstance(member, ast.Name)
        for member, child in zip(members, children, strict=True)
    )


def _list_numbers(node: ast.Call, module: nn.Module) -> Iterator[tuple[str, object]]:
    """The arguments that are written as numbers, by name, and the defaults of those left out."""
    parameters = inspect.signature(class_of(module)).parameters
    given: dict[str, ast.expr] = dict(zip(parameters, node.args, strict=False))
    given |= {keyword.arg or "": keyword.value for keyword in node.keywords}
    for name, value in given.items():
        if isinstance(value, ast.Constant):
            yield name, value.value
    for name, parameter in parameters.items():
        if name not in given and isinstance(parameter.default, int | float):
            yield name, parameter.default


def _is_setting(module: nn.Module, name: str, value: object) -> bool:
    """Whether an attribute has a value, also as one of a pair; unknown names say nothing."""
    held = getattr(module, name, value)
    if name == "bias" or isinstance(held, Tensor | nn.Module):
        return True
    return bool(held == value) or (isinstance(held, tuple) and set(held) == {value})


def _name(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
