"""Puts a watcher's hooks on the modules of a model, and takes all of them off again."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from cnnprobe.recorder.execution import CompiledCall, is_compiled_in_place
from cnnprobe.recorder.inventory import Kind, Kinds, named_modules
from cnnprobe.recorder.module_tree import ModuleTree


class Told(Protocol):
    """Is told of every call of a watched module."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The module is about to be called."""

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """It has returned, or has raised (`output` is then None)."""


class Listener(Told, Protocol):
    """Is told, and knows of the calls before."""

    @property
    def is_running(self) -> bool:
        """Whether a call of a watched module goes on."""


class Hooks:
    """The hooks of one recording: `watched` is empty before they are on and after they are off.

    It does not hold the listener, which holds it: in a cycle the model would stay in memory.
    """

    def __init__(self, tree: ModuleTree) -> None:
        self.tree = tree
        self.watched: dict[int, int] = {}  # of each module by its id its place in the tree
        self.kinds: list[Kind] = []  # by place
        self.has_fused = False
        self.stays_compiled = False
        self._key = 0
        self._registrations: RemovableHandle | None = None
        self._compiled_calls: list[CompiledCall] = []
        self._quiet: list[QuietStart] = []

    def attach(self, told: Listener) -> None:
        """Hook every module of the model, once each."""
        self._key = RemovableHandle.next_id
        RemovableHandle.next_id = self._key + 1
        before, after, tree = told.enter, told.leave, self.tree
        watched, key, stays_compiled = self.watched, self._key, self.stays_compiled
        self.kinds = list(map(Kinds().of, tree.modules))
        for place, module in tree.watched():
            kind = self.kinds[place]
            if stays_compiled or kind.is_fused or kind.is_lazy:
                self._watch(place, module, told)
            else:  # as nearly all
                watched[id(module)] = place
                _hook(module, key, before, after)
        self._registrations = register_module_module_registration_hook(
            functools.partial(self._register, told)
        )

    def _watch(self, place: int, module: nn.Module, told: Told) -> None:
        self.watched[id(module)] = place
        self.has_fused |= self.kinds[place].is_fused
        if self.kinds[place].is_lazy and hasattr(module, "_initialize_hook"):
            self._quiet.append(QuietStart(module))
        if self.stays_compiled and is_compiled_in_place(module):
            self._compiled_calls.append(CompiledCall(module, told))
        else:
            _hook(module, self._key, told.enter, told.leave)

    def _register(
        self, told: Listener, parent: nn.Module, name: str, module: nn.Module | None
    ) -> None:
        """A module is given to a parent: one that comes into the model during the forward pass is
        watched from now on.
        """
        known = self.watched.get(id(parent))
        if known is None or module is None or id(module) in self.watched:
            return
        if not told.is_running:
            return
        above = f"{self.tree.fqns[known]}.{name}".lstrip(".")
        kinds = Kinds()
        for fqn, child, first in named_modules(module):
            if first and id(child) not in self.watched:
                at = self.tree.append(f"{above}.{fqn}" if fqn else above, child)
                self.kinds.append(kinds.of(child))
                self._watch(at, child, told)

    def detach(self) -> None:
        """Take every hook off again, whatever happened since."""
        if self._registrations is not None:
            self._registrations.remove()
        for call in self._compiled_calls:
            call.remove()
        for start in self._quiet:
            start.remove()
        modules, key = self.tree.modules, self._key
        for place in self.watched.values():
            _unhook(modules[place], key)
        self.watched.clear()  # copies of the hooks that somebody made meanwhile fall silent


class QuietStart:
    """The hook by which a lazy module makes its parameters at its first call, unseen: what it calls
    of torch is not the forward's.
    """

    def __init__(self, module: nn.Module) -> None:
        self._hooks = module._forward_pre_hooks
        self._key = int(module._initialize_hook.id)  # type: ignore[arg-type, union-attr]
        self._original: Callable[..., Any] = self._hooks[self._key]
        self._unseen = functools.partial(_run_unseen, self._original)
        self._hooks[self._key] = self._unseen

    def remove(self) -> None:
        """Put the hook back where the module was never called."""
        if self._hooks.get(self._key) is self._unseen:
            self._hooks[self._key] = self._original


def _run_unseen(hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch._C.DisableTorchFunction():
        return hook(*args, **kwargs)


def _hook(
    module: nn.Module, key: int, before: Callable[..., None], after: Callable[..., None]
) -> None:
    """What register_forward_pre_hook(with_kwargs=True) and register_forward_hook(always_call=True)
    do, without a handle for each of thousands.
    """
    own = module.__dict__
    own["_forward_pre_hooks"][key] = before
    own["_forward_pre_hooks_with_kwargs"][key] = True
    own["_forward_hooks"][key] = after
    own["_forward_hooks_always_called"][key] = True


_PLACES = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_always_called",
)


def _unhook(module: nn.Module, key: int) -> None:
    own = module.__dict__
    try:
        del own["_forward_pre_hooks"][key], own["_forward_pre_hooks_with_kwargs"][key]
        del own["_forward_hooks"][key], own["_forward_hooks_always_called"][key]
    except KeyError:  # somebody has taken off some of them
        for place in _PLACES:
            own[place].pop(key, None)
