"""How a remedy of a layer changes the user's file, by the edits that the repairs of crashes use."""

import ast
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from cnnprobe.crash import Crash
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.layers import Exchange, Reconfigure
from cnnprobe.crash.edits.places import find_assigned, find_method
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.remedies.model_lines import drop_last
from cnnprobe.remedies.program import insert_after

Written = Callable[[], list[TextChange]]
CONTAINERS = (Mapping, list, tuple)


def write_in(
    evidence: Evidence, model: nn.Module, write: Callable[..., list[TextChange]], *given: Any
) -> Written:
    """A change of a place that is found by the model: what `write` makes of it and of `given`."""
    seen = Crash(error=RuntimeError(), model=model, trace=evidence.trace)
    return lambda: write(seen, *given)


def _write_all(seen: Crash, edits: Sequence[Edit]) -> list[TextChange]:
    return [change for edit in edits for change in edit.write(seen, edits)]


def write_settings(
    fqn: str | Iterable[str], changes: Mapping[str, Any], evidence: Evidence, model: nn.Module
) -> Written:
    """Other arguments where a layer is made, or each of several."""
    layers = [fqn] if isinstance(fqn, str) else list(fqn)
    edits = [Reconfigure(title="", module=layer, changes=changes) for layer in layers]
    return write_in(evidence, model, _write_all, edits)


def write_layer(fqn: str, code: str, evidence: Evidence, model: nn.Module) -> Written:
    """Another layer, as code ("nn.Identity()"), where this one is made."""
    edit = Exchange(title="", module=fqn, code=code, layer=lambda _: nn.Identity())
    return write_in(evidence, model, _write_all, [edit])


def write_no_layer(fqn: str, evidence: Evidence, model: nn.Module) -> Written:
    """nn.Identity() where a layer is made; one less in the list that a Sequential is made of."""

    def write(seen: Crash) -> list[TextChange]:
        edit = Exchange(title="", module=fqn, code="nn.Identity()", layer=lambda _: nn.Identity())
        try:
            return _write_all(seen, [edit])
        except UnknownPlaceError:
            return drop_last(seen, fqn)

    return write_in(evidence, model, write)


def write_registered(owner: nn.Module, names: Iterable[str], kind: str) -> Written:
    """What an attribute is set to in __init__, in a container, a parameter or a buffer."""
    return lambda: [change for name in names for change in _register(owner, name, kind)]


def write_beside(owner: nn.Module, names: Iterable[str], kind: str) -> Written:
    """A registered container of all that nested attributes hold, at the end of __init__."""
    return lambda: [_register_beside(owner, name, kind) for name in names]


def _register_beside(owner: nn.Module, name: str, kind: str) -> TextChange:
    file, function = find_method(type(owner), "__init__")
    place = f"{function.args.args[0].arg}.{name}"
    value = vars(owner)[name]
    parts = _list_parts(value)
    inner = [each for part in parts for each in _list_parts(part)]
    nested = {isinstance(part, Mapping) for part in parts if isinstance(part, CONTAINERS)}
    held = nn.Module if kind == "module" else nn.Parameter
    if len(nested) > 1 or not all(isinstance(each, held) for each in inner or parts):
        raise UnknownPlaceError
    text = f"{place}.values()" if isinstance(value, Mapping) else place
    if nested:
        within = "part.values()" if True in nested else "part"
        text = f"each for part in {text} for each in {within}"
    container = f"{_name_nn(owner)}.{'ModuleList' if kind == 'module' else 'ParameterList'}"
    return insert_after(file, function.body[-1], f"{place}_registered = {container}({text})")


def _list_parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


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
