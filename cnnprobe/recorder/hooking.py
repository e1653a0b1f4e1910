"""Puts a watcher's hooks on the modules of a model, and takes all of them off again."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from cnnprobe.recorder.execution import CompiledCall, is_compiled_in_place
from cnnprobe.recorder.inventory import Kind, Kinds, named_modules
from cnnprobe.recorder.module_tree import ModuleTree

Watched = dict[int, tuple[Kind, int]]
"""Of each watched module by its id what its class says of it, and its place in the tree."""


class Told(Protocol):
    """Is told of every call of a watched module."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The module is about to be called."""

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        """It has returned, or has raised (`output` is then None)."""


class Hooks:
    """The hooks of one recording: `watched` is empty before they are on and after they are off."""

    def __init__(self, tree: ModuleTree, told: Told, is_running: Callable[[], bool]) -> None:
        self.tree = tree
        self.told = told
        self.is_running = is_running  # whether a call of a watched module goes on
        self.watched: Watched = {}
        self.has_fused = False
        self.stays_compiled = False
        self._key = 0
        self._registrations: RemovableHandle | None = None
        self._compiled_calls: list[CompiledCall] = []

    def attach(self) -> None:
        """Hook every module of the model, once each."""
        self._key = RemovableHandle.next_id
        RemovableHandle.next_id = self._key + 1
        before, after, kind_of = self.told.enter, self.told.leave, Kinds().of
        watched, key, stays_compiled = self.watched, self._key, self.stays_compiled
        for place, module in self.tree.watched():
            kind = kind_of(module)
            if stays_compiled or kind.is_fused:
                self._watch(place, module, kind)
            else:  # as nearly all
                watched[id(module)] = (kind, place)
                _hook(module, key, before, after)
        self._registrations = register_module_module_registration_hook(self._register)

    def _watch(self, place: int, module: nn.Module, kind: Kind) -> None:
        self.watched[id(module)] = (kind, place)
        self.has_fused |= kind.is_fused
        if self.stays_compiled and is_compiled_in_place(module):
            self._compiled_calls.append(CompiledCall(module, self.told))
        else:
            _hook(module, self._key, self.told.enter, self.told.leave)

    def _register(self, parent: nn.Module, name: str, module: nn.Module | None) -> None:
        """A module is given to a parent: one that comes into the model during the forward pass is
        watched from now on.
        """
        known = self.watched.get(id(parent))
        if known is None or module is None or id(module) in self.watched:
            return
        if not self.is_running():
            return
        above = f"{self.tree.fqns[known[1]]}.{name}".lstrip(".")
        kinds = Kinds()
        for fqn, child, first in named_modules(module):
            if first and id(child) not in self.watched:
                at = self.tree.append(f"{above}.{fqn}" if fqn else above, child)
                self._watch(at, child, kinds.of(child))

    def detach(self) -> None:
        """Take every hook off again, whatever happened since."""
        if self._registrations is not None:
            self._registrations.remove()
        for call in self._compiled_calls:
            call.remove()
        modules, key = self.tree.modules, self._key
        for _, place in self.watched.values():
            _unhook(modules[place], key)
        self.watched.clear()  # copies of the hooks that somebody made meanwhile fall silent


def _hook(
    module: nn.Module, key: int, before: Callable[..., None], after: Callable[..., None]
) -> None:
    """What register_forward_pre_hook and register_forward_hook(with_kwargs=True, always_call=True)
    do, without a handle for each of thousands.
    """
    module._forward_pre_hooks[key] = before
    module._forward_pre_hooks_with_kwargs[key] = True
    module._forward_hooks[key] = after
    module._forward_hooks_with_kwargs[key] = True
    module._forward_hooks_always_called[key] = True


def _unhook(module: nn.Module, key: int) -> None:
    try:
        del module._forward_pre_hooks[key], module._forward_pre_hooks_with_kwargs[key]
        del module._forward_hooks[key], module._forward_hooks_with_kwargs[key]
        del module._forward_hooks_always_called[key]
    except KeyError:  # somebody has taken off some of them
        _unhook_each(module, key)


def _unhook_each(module: nn.Module, key: int) -> None:
    module._forward_pre_hooks.pop(key, None)
    module._forward_pre_hooks_with_kwargs.pop(key, None)
    module._forward_hooks.pop(key, None)
    module._forward_hooks_with_kwargs.pop(key, None)
    module._forward_hooks_always_called.pop(key, None)
