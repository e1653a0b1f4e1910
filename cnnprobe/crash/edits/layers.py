"""Layers that are put in, taken out, exchanged or built again with other settings."""

import ast
import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.constructions import change_construction
from cnnprobe.crash.edits.edit import Edit, refill
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import (
    check_plain,
    find_constructor,
    list_members,
    read_prefix,
    write_argument,
)
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.recorder.inventory import class_of

# Their signature hides them. Source: torch.nn.RNNBase.
_SIZES = ("input_size", "hidden_size", "num_layers")
_OF_RECURRENT = (*_SIZES, "bias", "batch_first", "dropout", "bidirectional")

_HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks")


@dataclass(frozen=True, kw_only=True)
class Insert(Edit):
    """Put a layer before the module `module`, which stands in a Sequential."""

    layer: Callable[[], nn.Module]

    def apply(self, twin: ModelCopy) -> None:
        parent_name, _, name = (self.module or "").rpartition(".")
        registry = twin.module(parent_name)._modules
        before = dict(registry)
        changed: dict[str, nn.Module | None] = {}
        for key, child in before.items():
            if key == name:
                changed["inserted"] = self.layer()
            changed[key] = child
        refill(registry, changed)
        twin.undo.append(lambda: refill(registry, before))

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:  # noqa: ARG002
        fqn = self.module or ""
        parent, _, name = fqn.rpartition(".")
        _, file, call = find_constructor(crash, parent)
        member = list_members(call)[list(crash.modules[parent]._modules).index(name)]
        code = self.code.replace("nn.", read_prefix(file, call))
        start = file.span(member)[0]
        line = file.text[:start].rpartition("\n")[2]
        between = ",\n" + line if not line.strip() else ", "
        return [TextChange(file.path, start, start, code + between)]


@dataclass(frozen=True, kw_only=True)
class Remove(Edit):
    """Take a layer out: nothing happens in its place."""

    def apply(self, twin: ModelCopy) -> None:
        twin.set_module(self.module or "", nn.Identity())


@dataclass(frozen=True, kw_only=True)
class Reverse(Edit):
    """Reverse the order of the layers in the list `module`."""

    def apply(self, twin: ModelCopy) -> None:
        registry = twin.module(self.module)._modules
        before = dict(registry)
        refill(registry, dict(zip(before, list(before.values())[::-1], strict=True)))
        twin.undo.append(lambda: refill(registry, before))

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:  # noqa: ARG002
        _, file, call = find_constructor(crash, self.module or "")
        given: ast.expr | None = call.args[0] if len(call.args) == 1 else None
        if isinstance(given, ast.ListComp | ast.GeneratorExp) and len(given.generators) == 1:
            given = given.generators[0].iter
        if isinstance(given, ast.List | ast.Tuple):
            texts = [file.source(node) for node in reversed(given.elts)]
            return [file.replace(a, b) for a, b in zip(given.elts, texts, strict=True)]
        is_range = isinstance(given, ast.Call) and file.source(given.func) == "range"
        if given is None or not (is_range or isinstance(given, ast.Name)):
            raise UnknownPlaceError
        return [file.replace(given, f"reversed({file.source(given)})")]


@dataclass(frozen=True, kw_only=True)
class Reconfigure(Edit):
    """Give the layer `module` other arguments of its constructor: in_features, padding, ..."""

    changes: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, twin: ModelCopy) -> None:
        module = twin.module(self.module)
        new = rebuild(module, self.changes)
        for name in _HOOKS:  # another edit of this candidate may sit there
            getattr(new, name).update(getattr(module, name))
        twin.set_module(self.module or "", new)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:
        fqn = self.module or ""
        alike = frozenset(
            e.module or ""
            for e in edits
            if isinstance(e, Reconfigure) and e.changes == self.changes
        )
        kind = next(
            b for b in class_of(crash.modules[fqn]).__mro__ if b.__module__.startswith("torch.nn.")
        )
        names = list(inspect.signature(kind).parameters)
        if names[:1] == ["args"]:  # recurrent layers
            names = list(_OF_RECURRENT)
        others = [v for e in edits if isinstance(e, Reconfigure) for v in e.changes.values()]
        with contextlib.suppress(UnknownPlaceError):
            return [change_construction(crash, fqn, names, self.changes, others)]
        _, file, call = find_constructor(crash, fqn, alike)
        check_plain(call)
        return [write_argument(file, call, names, n, v) for n, v in self.changes.items()]


def rebuild(module: nn.Module, changes: Mapping[str, Any]) -> nn.Module:
    """A new layer of the same stock class, device, dtype, mode and settings but the changed."""
    kind = next(b for b in class_of(module).__mro__ if b.__module__.startswith("torch.nn."))
    if isinstance(module, nn.RNNBase):
        names = list(_OF_RECURRENT)
    else:
        names = [
            n for n in inspect.signature(kind).parameters if n in module.__dict__ or n in changes
        ]
    settings = {name: changes.get(name, getattr(module, name, None)) for name in names}
    settings |= {name: value for name, value in changes.items() if name not in settings}
    if isinstance(module, nn.MultiheadAttention):  # they follow embed_dim unless they were given
        settings |= {
            name: None
            for name in ("kdim", "vdim")
            if name not in changes and getattr(module, name) == module.embed_dim
        }
    accepted = inspect.signature(kind).parameters
    if not isinstance(module, nn.RNNBase) and "bias" in accepted:
        settings["bias"] = (
            getattr(module, "bias", None) is not None
            or getattr(module, "in_proj_bias", None) is not None
        )
    like = next(iter(module.parameters()), None)
    if like is not None and ("device" in accepted or isinstance(module, nn.RNNBase)):
        settings |= {"device": like.device, "dtype": like.dtype}
    new: nn.Module = kind(**settings)
    return new.train(module.training)


@dataclass(frozen=True, kw_only=True)
class Exchange(Edit):
    """Put another layer in the place of `module`, made from it."""

    layer: Callable[[nn.Module], nn.Module]

    def apply(self, twin: ModelCopy) -> None:
        twin.set_module(self.module or "", self.layer(twin.module(self.module)))

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:  # noqa: ARG002
        """Write the other layer where this one is made."""
        if not self.code.startswith("nn.") or "*" in self.code:
            raise UnknownPlaceError
        _, file, call = find_constructor(crash, self.module or "")
        return [file.replace(call, read_prefix(file, call) + self.code.removeprefix("nn."))]
