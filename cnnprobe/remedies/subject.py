"""What a remedy changes: the request of a diagnosis, with its model, optimizers and step. All of it
is put back afterwards.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnprobe.recorder.inventory import named_modules
from cnnprobe.remedies.rewriting import Rewriter, Rewriting
from cnnprobe.training import Request, make_step, restore
from cnnprobe.training.passes import call
from cnnprobe.training.surroundings import Surroundings


class CannotTryError(Exception):
    """A remedy does not fit this model or loop; its text says why."""


class Subject:
    """The objects of one trial; `request` is what is run in the end."""

    def __init__(self, request: Request, around: Surroundings, states: list[Any]) -> None:
        self._states = states
        self.outermost = ""  # the line that called the diagnosis
        self.request = request
        self.around = around
        self.model: nn.Module = request.model
        self._before: list[Callable[[], None]] = []
        self._after: list[Callable[[], None]] = []
        self._rewrites: list[tuple[str, str, Rewriting]] = []

    @property
    def optimizers(self) -> list[Optimizer]:
        """Every optimizer that the loop steps."""
        return [optimizer for _, optimizer in self.around.optimizers.values()]

    @property
    def has_own_step(self) -> bool:
        """Whether the user's train_step is run, and not the standard one."""
        return self.request.train_step is not None

    def module(self, fqn: str) -> nn.Module:
        """The module of a name."""
        for name, module, _ in named_modules(self.model):
            if name == fqn:
                return module
        raise CannotTryError(f"there is no module '{fqn}'")

    def set_module(self, fqn: str, module: nn.Module) -> None:
        """Put another module in the place of `fqn`, under all of its names."""
        old = self.module(fqn)
        if old is self.model:
            raise CannotTryError("the model itself cannot be exchanged")
        module.train(old.training)
        for _, parent, _ in list(named_modules(self.model)):
            for name, child in list(parent._modules.items()):
                if child is old and parent is not module:
                    parent._modules[name] = module

    def optimise(self, parameters: list[Tensor]) -> None:
        """Give new parameters to the first optimizer."""
        held = {id(p) for o in self.optimizers for g in o.param_groups for p in g["params"]}
        fresh = [p for p in parameters if id(p) not in held]
        if fresh and self.optimizers:
            self.optimizers[0].param_groups[0]["params"].extend(fresh)

    def before_each_step(self, action: Callable[[], None]) -> None:
        """Do something first in each step; the standard step changes no mode, so that once does."""
        action()
        self._before.append(action)

    def after_each_step(self, action: Callable[[], None]) -> None:
        """Do something last in each step of the user's."""
        if not self.has_own_step:
            raise CannotTryError("the standard step is complete")
        self._after.append(action)

    def undo(self, action: Callable[[], None]) -> None:
        """Do something when everything is put back, as often as that is."""
        self._states.append(_Undoing(action))

    def rewrite(self, kind: str, source: str, how: Rewriting) -> None:
        """Run something else in the place of the calls of a function on one line.

        What no line of the user's calls, a loss of the standard step say, stands on the line that
        called the diagnosis: then every call of the function is meant.
        """
        line = "" if source == self.outermost else source
        self._rewrites.append((kind, line, how))

    def watch(self, watch: AbstractContextManager[Any]) -> None:
        """Run one step as it is within `watch`; what it changes is put back."""
        step = make_step(self.request, self.around)
        try:
            with watch:
                step()
        finally:
            restore(self._states)

    def call_model(self) -> None:
        """One forward in train mode, without gradients."""
        with torch.no_grad():
            call(self.model, self.request.inputs)

    def finish(self) -> Request:
        """The request with the collected changes in the model's forward, the loss and the step.

        The changes hold this subject, and are let go: it would live on until the collector comes.
        """
        request = self.request
        if self._rewrites:
            forward = self.model.forward
            self.model.__dict__["forward"] = self._within(forward)
        step, loss_fn = request.train_step, request.loss_fn
        if self._rewrites and loss_fn is not None and step is None:
            loss_fn = _as_function(loss_fn, self._rewrites)
        if step is not None and (self._before or self._after or self._rewrites):
            step = self._wrap_step(step)
        for collected in (self._before, self._after, self._rewrites):
            collected.clear()
        return replace(request, train_step=step, loss_fn=loss_fn, model=self.model)

    def _within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        rewrites = tuple(self._rewrites)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with Rewriter(rewrites):
                return function(*args, **kwargs)

        return run

    def _wrap_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        inner = self._within(step) if self._rewrites else step
        before, after = tuple(self._before), tuple(self._after)

        @functools.wraps(step)
        def run(*args: Any, **kwargs: Any) -> Any:
            for action in before:
                action()
            result = inner(*args, **kwargs)
            for action in after:
                action()
            return result

        return run


class _Undoing:
    """What is called when everything is put back."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.restore = action


def _as_function(
    loss_fn: Callable[..., Any], rewrites: list[tuple[str, str, Rewriting]]
) -> Callable[..., Any]:
    chosen = tuple(rewrites)

    @functools.wraps(getattr(loss_fn, "forward", loss_fn))
    def run(*args: Any, **kwargs: Any) -> Any:
        with Rewriter(chosen):
            return loss_fn(*args, **kwargs)

    return run
