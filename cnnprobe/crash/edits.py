"""Changes of a model or of its input that can be tried on a shadow, and say in the user's words what they are."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from cnnprobe.crash.files import Change
from cnnprobe.crash.shadow import Rewriting, Shadow, bind
from cnnprobe.recorder.inventory import class_of, named_modules
from cnnprobe.recorder.values import argument_leaves


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change. `title` says it, `code` is what to write, `module` what it touches (None: the input), `written` how the user's file changes."""

    title: str
    code: str = ""
    module: str | None = None
    written: Callable[[], list[Change]] | None = (
        None  # None: where `patch` knows it by the kind of the edit
    )

    def apply(self, shadow: Shadow) -> None:
        """Make the change in a shadow; what takes it back goes onto `shadow.undo`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Insert(Edit):
    """Put a layer before the module `module`, which stands in a Sequential."""

    layer: Callable[[], nn.Module]

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        parent_name, _, name = (self.module or "").rpartition(".")
        registry = shadow.module(parent_name)._modules
        before = dict(registry)
        changed: dict[str, nn.Module | None] = {}
        for key, child in before.items():
            if key == name:
                changed["inserted"] = self.layer()
            changed[key] = child
        _refill(registry, changed)
        shadow.undo.append(lambda: _refill(registry, before))


def _refill(registry: Any, content: Mapping[str, Any]) -> None:
    registry.clear()
    registry.update(content)


@dataclass(frozen=True, kw_only=True)
class Remove(Edit):
    """Take a layer out: nothing happens in its place."""

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        shadow.set_module(self.module or "", nn.Identity())


@dataclass(frozen=True, kw_only=True)
class Adapt(Edit):
    """Pass the first argument of the module `module` through a function before the call; `code` has {x} for it."""

    function: Callable[[Any], Any]

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""

        def change(
            _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (self.function(args[0]), *args[1:]), kwargs
            first = next(iter(kwargs), None)
            return args, kwargs if first is None else {
                **kwargs,
                first: self.function(kwargs[first]),
            }

        shadow.undo.append(
            shadow.module(self.module or "")
            .register_forward_pre_hook(change, with_kwargs=True, prepend=True)
            .remove
        )


@dataclass(frozen=True, kw_only=True)
class KeepFirst(Edit):
    """Call the module `module` with its first argument alone."""

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        module = shadow.module(self.module or "")
        shadow.undo.append(module.register_forward_pre_hook(lambda _module, args: args[:1]).remove)


@dataclass(frozen=True, kw_only=True)
class AdaptOutput(Edit):
    """Pass what the module `module` returns through a function."""

    function: Callable[[Any], Any]

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        function = self.function
        handle = shadow.module(self.module or "").register_forward_hook(
            lambda _module, _args, output: function(output)
        )
        shadow.undo.append(handle.remove)


@dataclass(frozen=True, kw_only=True)
class HandIndices(Edit):
    """Unpack what every pooling with return_indices gives, and hand the indices to the unpooling that undoes it: the last first."""

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        kept: list[Tensor] = []

        def unpack(
            _module: nn.Module, _args: tuple[Any, ...], output: tuple[Tensor, Tensor]
        ) -> Tensor:
            kept.append(output[1])
            return output[0]

        def hand(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (*args, kept.pop()) if len(args) == 1 and kept else args

        for _, module, first in named_modules(shadow.model):
            if first and getattr(module, "return_indices", False):
                shadow.undo.append(module.register_forward_hook(unpack).remove)
            elif first and isinstance(module, nn.modules.pooling._MaxUnpoolNd):
                shadow.undo.append(module.register_forward_pre_hook(hand).remove)


@dataclass(frozen=True, kw_only=True)
class Reconfigure(Edit):
    """Give the layer `module` another argument of its constructor: in_features, in_channels, num_features, padding, ..."""

    changes: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        module = shadow.module(self.module or "")
        shadow.set_module(self.module or "", rebuilt(module, self.changes))


def rebuilt(module: nn.Module, changes: Mapping[str, Any]) -> nn.Module:
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
class Rewrite(Edit):
    """Do something else in place of the calls of one torch function on one line of the user's."""

    kind: str
    source: str
    function: Rewriting
    respell: str = ""  # how the call is to be written, with {x} for its tensor and {rest} for its other arguments; "": not known
    element: int | None = (
        None  # it is this element of the sequence it is given that is to be written so
    )
    keyword: tuple[str, Any, int] | None = (
        None  # the argument that is to have another value: name, value, position
    )

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        entry = (self.kind, self.source, self.function)
        shadow.rewrites.append(entry)
        shadow.undo.append(lambda: shadow.rewrites.remove(entry))


@dataclass(frozen=True, kw_only=True)
class ChangeInput(Edit):
    """Pass the tensors that the model is given through a function (`only_first`: the first one)."""

    function: Callable[[Any], Any]
    only_first: bool = True

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        args, kwargs = shadow.args, shadow.kwargs
        shadow.undo.append(lambda: _set_arguments(shadow, args, kwargs))
        if not self.only_first:
            change = lambda value: self.function(value) if isinstance(value, Tensor) else value  # noqa: E731
            shadow.args, shadow.kwargs = tree_map(change, args), tree_map(change, kwargs)
        elif args:
            shadow.args = (self.function(args[0]), *args[1:])
        elif kwargs:
            first = next(iter(kwargs))
            shadow.kwargs = {**kwargs, first: self.function(kwargs[first])}


@dataclass(frozen=True, kw_only=True)
class ChangeTensor(Edit):
    """Pass the tensor that stands at a path of the model's arguments through a function: "[1]", "image", "['mask']"."""

    path: str
    function: Callable[[Any], Any]

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        args, kwargs = shadow.args, shadow.kwargs
        meant = next(value for path, value in argument_leaves(args, kwargs) if path == self.path)
        change = lambda value: self.function(value) if value is meant else value  # noqa: E731
        shadow.undo.append(lambda: _set_arguments(shadow, args, kwargs))
        shadow.args, shadow.kwargs = tree_map(change, args), tree_map(change, kwargs)


def _set_arguments(shadow: Shadow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    shadow.args, shadow.kwargs = args, kwargs


@dataclass(frozen=True, kw_only=True)
class ChangeArguments(Edit):
    """Call the model with other arguments altogether."""

    function: Callable[[tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        args, kwargs = shadow.args, shadow.kwargs
        shadow.undo.append(lambda: _set_arguments(shadow, args, kwargs))
        shadow.args, shadow.kwargs = self.function(args, kwargs)


@dataclass(frozen=True, kw_only=True)
class Move(Edit):
    """Bring the tensors of a module (and of all below it) to a dtype or device."""

    dtype: torch.dtype | None = None
    device: str | None = None

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        module = shadow.module(self.module or "")
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
                        shadow.undo.append(_restorer(registry, name, value))

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

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        module = shadow.module(self.module or "")
        attributes = dict(module.__dict__)
        registries = {
            name: dict(attributes[name]) for name in ("_modules", "_parameters", "_buffers")
        }
        value = self.value(module)
        module.__dict__.pop(self.name, None)
        module._parameters.pop(self.name, None)
        setattr(module, self.name, value)

        def put_back() -> None:
            _refill(module.__dict__, attributes)
            for registry, content in registries.items():
                _refill(module.__dict__[registry], content)

        shadow.undo.append(put_back)


@dataclass(frozen=True, kw_only=True)
class RegisterLayers(Edit):
    """Make the plain list or dict of layers at an attribute one that .to() and parameters() see, on a device."""

    name: str
    device: str

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        module = shadow.module(self.module or "")
        hidden = module.__dict__[self.name]
        layers = nn.ModuleDict(hidden) if isinstance(hidden, dict) else nn.ModuleList(hidden)
        del module.__dict__[self.name]
        module._modules[self.name] = copy.deepcopy(layers).to_empty(device=self.device)

        def put_back() -> None:
            del module._modules[self.name]
            module.__dict__[self.name] = hidden

        shadow.undo.append(put_back)


@dataclass(frozen=True, kw_only=True)
class SetMode(Edit):
    """Put a module into train or eval mode."""

    training: bool

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        module = shadow.module(self.module or "")
        modes = [(part, part.training) for part in module.modules()]
        module.train(self.training)

        def put_back() -> None:
            for part, mode in modes:
                part.training = mode

        shadow.undo.append(put_back)


@dataclass(frozen=True, kw_only=True)
class Bind(Edit):
    """Give the class of the module `module` another forward."""

    function: Callable[..., Any]

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        kind = type(shadow.module(self.module or ""))
        for _, module, first in named_modules(shadow.model):
            if first and type(module) is kind:
                bind(module, "forward", self.function, shadow.undo)


@dataclass(frozen=True, kw_only=True)
class Exchange(Edit):
    """Put another layer in the place of `module`, made from it."""

    layer: Callable[[nn.Module], nn.Module]

    def apply(self, shadow: Shadow) -> None:
        """See Edit."""
        shadow.set_module(self.module or "", self.layer(shadow.module(self.module or "")))
