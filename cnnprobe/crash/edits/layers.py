"""Layers that are put in, taken out, exchanged or built again with other settings."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cnnprobe.crash.edits.edit import Edit, refill
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.recorder.inventory import class_of


@dataclass(frozen=True, kw_only=True)
class Insert(Edit):
    """Put a layer before the module `module`, which stands in a Sequential."""

    layer: Callable[[], nn.Module]

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        parent_name, _, name = (self.module or "").rpartition(".")
        registry = shadow.module(parent_name)._modules
        before = dict(registry)
        changed: dict[str, nn.Module | None] = {}
        for key, child in before.items():
            if key == name:
                changed["inserted"] = self.layer()
            changed[key] = child
        refill(registry, changed)
        shadow.undo.append(lambda: refill(registry, before))


@dataclass(frozen=True, kw_only=True)
class Remove(Edit):
    """Take a layer out: nothing happens in its place."""

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        shadow.set_module(self.module or "", nn.Identity())


@dataclass(frozen=True, kw_only=True)
class Reconfigure(Edit):
    """Give the layer `module` another argument of its constructor: in_features, in_channels, num_features, padding, ..."""

    changes: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        module = shadow.module(self.module or "")
        shadow.set_module(self.module or "", rebuild(module, self.changes))


def rebuild(module: nn.Module, changes: Mapping[str, Any]) -> nn.Module:
    """A new layer of the same stock class and settings, some of them changed; it has the same device, dtype and mode."""
    kind = next(
        base for base in class_of(module).__mro__ if base.__module__.startswith("torch.nn.")
    )
    if isinstance(module, nn.RNNBase):
        names = [
            "input_size",
            "hidden_size",
            "num_layers",
            "bias",
            "batch_first",
            "dropout",
            "bidirectional",
        ]
    else:
        names = [
            name
            for name in inspect.signature(kind).parameters
            if name in module.__dict__ or name in changes
        ]
    settings = {name: changes.get(name, getattr(module, name, None)) for name in names}
    settings |= {name: value for name, value in changes.items() if name not in settings}
    if isinstance(module, nn.MultiheadAttention):  # they follow embed_dim unless they were given
        settings |= {
            name: None for name in ("kdim", "vdim") if getattr(module, name) == module.embed_dim
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

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        shadow.set_module(self.module or "", self.layer(shadow.module(self.module or "")))
