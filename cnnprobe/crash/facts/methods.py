"""The user's methods: which one raised, which class has no forward."""

import ast
import inspect
import linecache
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnprobe.crash.crash import Crash, find_once
from cnnprobe.crash.edits.files import File, UnknownPlaceError
from cnnprobe.crash.facts.frames import is_comprehension, is_users, list_frames
from cnnprobe.crash.facts.trees import list_functions, list_nodes, parse_file, starts_at
from cnnprobe.recorder.inventory import class_of, is_leaf


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method of a module's class, with the module that ran it."""

    fqn: str
    module: nn.Module
    function: types.FunctionType

    @property
    def name(self) -> str:
        """Its name: "forward"."""
        return self.function.__name__

    @property
    def kind(self) -> str:
        """The name of the class."""
        return class_of(self.module).__name__


def is_own(module: nn.Module) -> bool:
    """Whether a module is of a class of the user's."""
    return not class_of(module).__module__.startswith("torch.")


def find_method(module: nn.Module, fqn: str, name: str = "forward") -> Method | None:
    """A method of a module of the user's; None where it has none of that name."""
    function = inspect.unwrap(getattr(class_of(module), name, None))  # type: ignore[arg-type]
    if not is_own(module) or not isinstance(function, types.FunctionType):
        return None
    return Method(fqn=fqn, module=module, function=function)


@find_once
def find_failing_method(crash: Crash) -> Method | None:
    """The method of a module that the user's innermost frame runs; None where it is none."""
    frames = [f for f in list_frames(crash.error) if is_users(f) and not is_comprehension(f)]
    if not frames or not (frame := frames[-1]).f_code.co_varnames:
        return None
    owner: Any = frame.f_locals.get(frame.f_code.co_varnames[0])
    fqn = next((name for name, module in crash.modules.items() if module is owner), None)
    found = find_method(owner, fqn, frame.f_code.co_name) if fqn is not None else None
    same_file = found is not None and found.function.__code__.co_filename
    return found if same_file == frame.f_code.co_filename else None


def open_method(code: types.CodeType) -> tuple[File, ast.FunctionDef]:
    """The file, or the cell of a notebook, and the syntax tree of a function, by its code."""
    file = open_source(code.co_filename)
    for node in list_functions(file.tree):
        is_plain = isinstance(node, ast.FunctionDef)
        if is_plain and node.name == code.co_name and starts_at(node, code):
            return file, node  # type: ignore[return-value]
    raise UnknownPlaceError


def open_source(path: str) -> File:
    """A file, or a cell of a notebook, as Python has read it."""
    tree = parse_file(path)
    if tree is None:
        raise UnknownPlaceError
    return File(path, "".join(linecache.getlines(path)), tree)


def find_class(tree: ast.Module, function: ast.FunctionDef) -> ast.ClassDef | None:
    """The class whose method a function is."""
    classes = (node for node in list_nodes(tree) if isinstance(node, ast.ClassDef))
    return next((node for node in classes if function in node.body), None)


def lacks_forward(module: nn.Module | None) -> bool:
    """Whether a module's class defines no forward."""
    return (
        module is not None
        and not is_leaf(module)
        and type(module).forward is nn.Module.forward
        and "forward" not in module.__dict__
    )


def list_module_calls(crash: Crash, fqn: str) -> Iterator[tuple[str, Method, ast.Call]]:
    """The user's calls that handed a tensor to a layer: of the layer, then of modules around it.

    With the name of the module that is called, and the method that calls it.
    """
    index, place = crash.index, fqn
    source = crash.inputs[0].source if crash.inputs else None
    while index is not None:
        method, call = _find_call(crash, place)
        above = crash.trace.calls[index].parent
        parent = crash.trace.calls[above] if above else None
        if method is not None and call is not None:
            yield place, method, call
        has_same = parent is not None and parent.inputs and parent.inputs[0].source == source
        if parent is None or parent.fqn is None or not has_same:
            return
        place, index = parent.fqn, above


def _find_call(crash: Crash, place: str) -> tuple[Method | None, ast.Call | None]:
    """The method of the user's that called a module, and the call; None where there are several."""
    row = next((row for row in reversed(crash.trace.calls) if row.fqn == place), None)
    owner = crash.find_module_above(row.parent) if row is not None else ""
    method = find_method(crash.modules[owner], owner) if row is not None else None
    if method is None or row is None:
        return None, None
    name, line = place.removeprefix(f"{owner}." if owner else ""), row.source.rpartition(":")[2]
    calls = [
        node
        for node in list_nodes(open_method(method.function.__code__)[1])
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == f"self.{name}"
        and str(node.lineno) == line
    ]
    return method, calls[0] if len(calls) == 1 else None


def list_layers_read(method: Method) -> list[str]:
    """The attributes of self that a method reads, in the order of its text."""
    try:
        nodes = list_nodes(open_method(method.function.__code__)[1])
    except UnknownPlaceError:
        return []
    found = [n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    found = [n for n in found if n.value.id == "self"]  # type: ignore[attr-defined]
    return [n.attr for n in sorted(found, key=lambda n: (n.lineno, n.col_offset))]
