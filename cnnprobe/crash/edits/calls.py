"""Calls that are made otherwise: other arguments, another result, another forward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.model_copy import ModelCopy, Rewriting, bind
from cnnprobe.recorder.inventory import named_modules


@dataclass(frozen=True, kw_only=True)
class Adapt(Edit):
    """Pass the first argument of the module `module` through a function before the call; `code` has {x} for it."""

    function: Callable[[Any], Any]

    def apply(self, shadow: ModelCopy) -> None:
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

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        module = shadow.module(self.module or "")
        shadow.undo.append(module.register_forward_pre_hook(lambda _module, args: args[:1]).remove)


@dataclass(frozen=True, kw_only=True)
class AdaptOutput(Edit):
    """Pass what the module `module` returns through a function."""

    function: Callable[[Any], Any]

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        function = self.function
        handle = shadow.module(self.module or "").register_forward_hook(
            lambda _module, _args, output: function(output)
        )
        shadow.undo.append(handle.remove)


@dataclass(frozen=True, kw_only=True)
class HandIndices(Edit):
    """Unpack what every pooling with return_indices gives, and hand the indices to the unpooling that undoes it: the last first."""

    def apply(self, shadow: ModelCopy) -> None:
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

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        entry = (self.kind, self.source, self.function)
        shadow.rewrites.append(entry)
        shadow.undo.append(lambda: shadow.rewrites.remove(entry))


@dataclass(frozen=True, kw_only=True)
class Bind(Edit):
    """Give the class of the module `module` another forward."""

    function: Callable[..., Any]

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        kind = type(shadow.module(self.module or ""))
        for _, module, first in named_modules(shadow.model):
            if first and type(module) is kind:
                bind(module, "forward", self.function, shadow.undo)
