"""Attributes, devices, dtypes and modes of modules."""

import ast
import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.edit import Edit, refill
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import find_assigned, find_method, open_line, write_operand
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.recorder.inventory import class_of


@dataclass(frozen=True, kw_only=True)
class Move(Edit):
    """Bring the tensors of a module (and of all below it) to a dtype or device."""

    dtype: torch.dtype | None = None
    device: str | None = None

    def apply(self, twin: ModelCopy) -> None:
        module = twin.module(self.module)
        seen: set[int] = set()
        for part in module.modules():
            registries: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
            for registry in registries:
                for name, value in list(registry.items()):
                    if value is not None and id(value) not in seen:
                        seen.add(id(value))
                        moved = self._moved(value)
                        registry[name] = (
                            nn.Parameter(moved, requires_grad=value.requires_grad)
                            if isinstance(value, nn.Parameter)
                            else moved
                        )
                        twin.undo.append(_restorer(registry, name, value))

    def _moved(self, value: Tensor) -> Tensor:
        dtype = self.dtype if self.dtype is not None and value.is_floating_point() else value.dtype
        device = torch.device(self.device) if self.device is not None else value.device
        if value.device.type == "meta" and device.type != "meta":
            return torch.zeros(value.shape, dtype=dtype, device=device)
        return value.detach().to(device=device, dtype=dtype)


def _restorer(registry: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: registry.__setitem__(name, value)


@dataclass(frozen=True, kw_only=True)
class SetAttribute(Edit):
    """Give the module `module` another value for an attribute."""

    name: str
    value: Callable[[nn.Module], Any]

    def apply(self, twin: ModelCopy) -> None:
        module = twin.module(self.module)
        attributes = dict(module.__dict__)
        registries = {n: dict(attributes[n]) for n in ("_modules", "_parameters", "_buffers")}
        value = self.value(module)
        module.__dict__.pop(self.name, None)
        module._parameters.pop(self.name, None)
        setattr(module, self.name, value)

        def put_back() -> None:
            refill(module.__dict__, attributes)
            for registry, content in registries.items():
                refill(module.__dict__[registry], content)

        twin.undo.append(put_back)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:  # noqa: ARG002
        owner = crash.modules[self.module or ""]
        if self.name in owner.__dict__:
            file, function = find_method(class_of(owner), "__init__")
            value = find_assigned(function, self.name)
            if self.code.startswith("."):
                code = "{x}" + self.code
                return [file.replace(value, code.format(x=write_operand(file, value, code)))]
            if not isinstance(value, ast.Tuple):
                raise UnknownPlaceError
            return [file.replace(value, file.source(value.elts[0]))]
        if not self.code.isidentifier():
            raise UnknownPlaceError
        failure = crash.trace.failure
        file, line = open_line(failure.source if failure is not None else "")
        found = [
            n
            for n in ast.walk(file.tree)
            if isinstance(n, ast.Attribute) and n.attr == self.name and n.lineno == line
        ]
        if len(found) != 1:
            raise UnknownPlaceError
        return [file.replace(found[0], f"{file.source(found[0].value)}.{self.code}")]


@dataclass(frozen=True, kw_only=True)
class RegisterLayers(Edit):
    """Register the layers in the plain list or dict at an attribute, as they would be then."""

    name: str
    device: str | None = None
    dtype: torch.dtype | None = None

    def apply(self, twin: ModelCopy) -> None:
        module = twin.module(self.module)
        hidden = module.__dict__[self.name]
        layers = nn.ModuleDict(hidden) if isinstance(hidden, dict) else nn.ModuleList(hidden)
        del module.__dict__[self.name]
        layers = copy.deepcopy(layers).to(self.dtype)
        module._modules[self.name] = layers.to_empty(device=self.device) if self.device else layers

        def put_back() -> None:
            del module._modules[self.name]
            module.__dict__[self.name] = hidden

        twin.undo.append(put_back)


@dataclass(frozen=True, kw_only=True)
class RegisterBuffer(Edit):
    """Register the tensor at an attribute as a buffer, which `function` brings along."""

    name: str
    function: Callable[[Tensor], Any]

    def apply(self, twin: ModelCopy) -> None:
        module = twin.module(self.module)
        value = module.__dict__.pop(self.name)
        module._buffers[self.name] = self.function(value)

        def put_back() -> None:
            del module._buffers[self.name]
            module.__dict__[self.name] = value

        twin.undo.append(put_back)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:  # noqa: ARG002
        file, function = find_method(class_of(crash.modules[self.module or ""]), "__init__")
        value = find_assigned(function, self.name)
        found = [n for n in ast.walk(function) if isinstance(n, ast.Assign) and n.value is value]
        if len(found[0].targets) > 1:
            raise UnknownPlaceError
        code = f"self.register_buffer({self.name!r}, {file.source(value)})".replace("'", '"', 2)
        return [file.replace(found[0], code)]


@dataclass(frozen=True, kw_only=True)
class SetMode(Edit):
    """Put a module into train or eval mode."""

    training: bool

    def apply(self, twin: ModelCopy) -> None:
        module = twin.module(self.module)
        modes = [(part, part.training) for part in module.modules()]
        module.train(self.training)

        def put_back() -> None:
            for part, mode in modes:
                part.training = mode

        twin.undo.append(put_back)


@dataclass(frozen=True, kw_only=True)
class Unfreeze(Edit):
    """Let the parameters of a module require gradients."""

    def apply(self, twin: ModelCopy) -> None:
        for parameter in twin.module(self.module).parameters():
            if not parameter.requires_grad:
                parameter.requires_grad_(True)
                twin.undo.append(functools.partial(_freeze, parameter))


def _freeze(parameter: nn.Parameter) -> None:
    parameter.requires_grad_(False)
