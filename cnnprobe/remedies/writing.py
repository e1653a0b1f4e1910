"""How a remedy of a layer changes the user's file, by the edits that the repairs of crashes use."""

import ast
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from cnnprobe.crash import Crash
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.layers import Exchange, Reconfigure
from cnnprobe.crash.edits.places import find_assigned, find_method
from cnnprobe.diagnosis.evidence import Evidence

Written = Callable[[], list[TextChange]]


def _write(edit: Edit, evidence: Evidence, model: nn.Module) -> Written:
    seen = Crash(error=RuntimeError(), model=model, trace=evidence.trace)
    return lambda: edit.write(seen, [edit])


def write_settings(
    fqn: str, changes: Mapping[str, Any], evidence: Evidence, model: nn.Module
) -> Written:
    """Other arguments where a layer is made."""
    return _write(Reconfigure(title="", module=fqn, changes=changes), evidence, model)


def write_layer(fqn: str, code: str, evidence: Evidence, model: nn.Module) -> Written:
    """Another layer, as code ("nn.Identity()"), where this one is made."""
    edit = Exchange(title="", module=fqn, code=code, layer=lambda _: nn.Identity())
    return _write(edit, evidence, model)


def write_registered(owner: nn.Module, names: Iterable[str], kind: str) -> Written:
    """What an attribute is set to in __init__, in a container, a parameter or a buffer."""
    return lambda: [change for name in names for change in _register(owner, name, kind)]


def _register(owner: nn.Module, name: str, kind: str) -> list[TextChange]:
    file, function = find_method(type(owner), "__init__")
    value = find_assigned(function, name)
    start, end = file.span(value)
    if kind == "tensor":
        statement = next(
            node
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and node.value is value
        )
        own = function.args.args[0].arg
        head = f'{own}.register_buffer("{name}", '
        return [
            TextChange(file.path, file.span(statement)[0], start, head),
            TextChange(file.path, end, end, ")"),
        ]
    held = vars(owner)[name]
    several = {"module": "Module", "parameter": "Parameter"}[kind]
    is_single = kind == "parameter" and not isinstance(held, Mapping | list | tuple)
    wrap = several if is_single else f"{several}{'Dict' if isinstance(held, Mapping) else 'List'}"
    opening, closing = f"{_name_nn(owner)}.{wrap}(", ")"
    if isinstance(value, ast.Tuple) and not file.source(value).startswith("("):
        opening, closing = f"{opening}(", "))"
    return [TextChange(file.path, start, start, opening), TextChange(file.path, end, end, closing)]


def _name_nn(owner: nn.Module) -> str:
    """How the user's file names torch.nn."""
    names = vars(sys.modules.get(type(owner).__module__, object()))
    found = [name for name in ("nn", "torch") if name in names]
    if not found:
        raise UnknownPlaceError
    return "nn" if found[0] == "nn" else "torch.nn"
