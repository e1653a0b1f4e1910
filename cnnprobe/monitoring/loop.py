"""Where a training step begins and ends in the user's own loop, seen by the model's root call and
the optimizer's own hooks.
"""

import contextlib
import sys
import weakref
from collections.abc import Callable, Sequence
from threading import get_ident
from time import perf_counter
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnprobe.errors import NonFiniteError
from cnnprobe.monitoring.hooks import LayerHook, backward_task
from cnnprobe.monitoring.wiring import Wiring
from cnnprobe.recorder.preservation import is_own_pass
from cnnprobe.recorder.values import leaves

_WATCHED = 4  # tensors of a nested output whose gradients tell that a backward pass has begun
_FRAMES = 8  # of the stack between an optimizer's step and the GradScaler that makes it


class Events:
    """What a loop tells: to be overridden."""

    def begin_pass(self) -> None:
        """The root is called, with gradients, on an observed step."""

    def end_pass(self, output: Any) -> None:
        """The root has returned; `output` is None where it has raised."""

    def begin_backward(self) -> None:
        """The first gradient of a step arrives."""

    def before_update(self, optimizer: Any) -> None:
        """An optimizer is about to step, on an observed step."""

    def end_step(self, seconds: float, *, skipped: bool) -> bool:
        """A step is over; whether the next one is to be observed."""
        raise NotImplementedError


class Loop:
    """Puts hooks on model and optimizers while it is entered, and turns what they see into events.

    A step ends with the (last) optimizer's step; without an optimizer where the model is called
    again after a backward pass, or by `step()`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        wiring: Wiring,
        hooks: Sequence[LayerHook],
        events: Events,
    ) -> None:
        """`hooks` are those of the layers; that of the root itself, which the loop calls, comes
        first.
        """
        self.model = model
        self.optimizers = optimizers
        self.wiring = wiring
        self.root, *self.layers = hooks
        self.hooks = hooks
        self.events = events
        self.watches_root = True
        self.training: bool | None = None  # the mode of the latest pass of this step
        self.passes = 0
        self.backward = False  # a gradient has come back in this step
        self.updating = False
        self.scaler: Any = None
        self._started: float | None = None
        self._rows = 64  # that a pass has taken
        self.stale: list[
            nn.Parameter
        ] = []  # used by this step with what the last one had left in their gradients
        self._marked: list[_Mark] = []  # gradients that the last step has used
        self._suspects: list[
            _Mark
        ] = []  # those of them that a backward pass of this step has found uncleared
        self._begun: list[
            tuple[_Mark, int]
            # without an optimizer: gradients before the latest backward, with their weights'
            # versions
        ] = []
        self._task = -1  # the latest backward pass
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        model = self.model
        handles = [
            # nn.Module's own: those of a script refuse, though its hooks are called
            nn.Module.register_forward_pre_hook(model, _RootBefore(self)),
            nn.Module.register_forward_hook(
                model, _RootAfter(self), with_kwargs=True, always_call=True
            ),
        ]
        for optimizer in self.optimizers:
            handles.append(optimizer.register_step_pre_hook(_StepBefore(self)))
            if optimizer is self.optimizers[-1]:
                handles.append(optimizer.register_step_post_hook(_StepAfter(self)))
        for handle in handles:
            self._exits.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self.observe(on=False)
        self._exits.close()
        self._marked.clear()

    def observe(self, *, on: bool) -> None:
        """Put the hooks of the layers on, or take them off."""
        wiring = self.wiring
        if on != wiring.observing:
            for hook in self.layers:
                if on:
                    hook.attach()
                else:
                    hook.detach()
        wiring.observing = on
        wiring.active = False
        wiring.release()

    # -- the root ----------------------------------------------------------------------------------

    def enter_root(self) -> None:
        """The model is called: a pass of training if gradients are recorded."""
        wiring = self.wiring
        if not torch.is_grad_enabled() or backward_task() != -1:
            return
        if wiring.active and get_ident() != wiring.thread:
            wiring.strangers += 1
            return
        if self.backward and (not self.optimizers or self._is_cleared()):
            self.finish(skipped=bool(self.optimizers))
        if self._started is None:
            self._started = perf_counter()
        if not wiring.observing:
            return
        if self.passes and not self.backward and self.training is False:
            wiring.sheet.forget()  # an evaluation whose gradients nobody asked for
            self.passes = 0
        self.training = getattr(self.model, "training", False)
        wiring.sheet.reserve(3 * self._rows)
        for hook in self.hooks:
            hook.calls = hook.recalls = 0
        wiring.thread = get_ident()
        wiring.release()
        wiring.active = True
        self.events.begin_pass()

    def leave_root(self, args: Any, output: Any) -> None:
        """The model has returned, or raised."""
        wiring = self.wiring
        if wiring.active and get_ident() == wiring.thread:
            try:
                if output is not None and self.watches_root:
                    self.root(self.model, args, output)
            finally:
                wiring.active = False
            wiring.release()
            self.passes += 1
            self._rows = max(self._rows, wiring.sheet.next // self.passes)
            self.events.end_pass(output)
        elif (
            (self.optimizers and self.scaler is None)
            or not torch.is_grad_enabled()
            or backward_task() != -1
        ):
            return
        made = (
            [leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
            if output is not None
            else []
        )
        for leaf in made[:_WATCHED]:
            leaf.register_hook(_Beginning(self))  # type: ignore[no-untyped-call]

    def begin_backward(self) -> None:
        """A gradient comes back to the root's output."""
        task = backward_task()
        if not self.backward:
            self.backward = True
            self._suspects = _untouched(self._marked, writes=0)
            if self.wiring.observing:
                self.events.begin_backward()
        elif task != self._task:
            # The pass before has written to each once at most; what wrote more has cleared it, as
            # the loop of a GAN does.
            self._suspects = _untouched(self._suspects, writes=1)
        if task != self._task and not self.optimizers:
            self._begun = [
                ((p, weakref.ref(p.grad), p.grad._version), p._version)
                for p in self._leaves()
                if p.grad is not None
            ]
        self._task = task

    # -- the optimizer -----------------------------------------------------------------------------

    def before_update(self, optimizer: Any) -> None:
        """An optimizer's step begins."""
        self._convict(
            {id(p) for group in optimizer.param_groups for p in group["params"]}
            if self._suspects
            else set()
        )
        if self.wiring.observing and not self.updating:
            self.updating = True
            if self.scaler is None:
                self.scaler = _find_scaler()
            self.events.before_update(optimizer)

    def finish(self, *, skipped: bool = False) -> None:
        """The step is over, the next one begins."""
        seconds = 0.0 if self._started is None else perf_counter() - self._started
        if (
            not skipped and not self.stale
        ):  # the closure of an optimizer calls backward within its step
            held = [
                group["params"]
                for optimizer in self.optimizers[-1:]
                for group in optimizer.param_groups
            ] or [self.model.parameters()]
            self._convict({id(p) for group in held for p in group} if self._suspects else set())
        following = self.events.end_step(seconds, skipped=skipped)
        self.observe(on=following)
        self._mark(following=following)
        self._started = None
        self.passes = 0
        self.training = None
        self.backward = self.updating = False
        self.stale, self._suspects = [], []

    # -- gradients that were not cleared -----------------------------------------------------------

    def _mark(self, *, following: bool) -> None:
        """Remember the gradients that the step has used, without holding them; without an optimizer
        those of weights that have changed.
        """
        parameters = [p for p in self._leaves() if p.grad is not None] if following else []
        self._marked = [
            (p, weakref.ref(p.grad), p.grad._version) for p in parameters if p.grad is not None
        ]
        if not self.optimizers:
            used = {
                id(mark[0])
                for mark, version in self._begun
                if mark[0]._version != version and _is_left(mark)
            }
            self._marked = [mark for mark in self._marked if id(mark[0]) in used]

    def _convict(self, used: set[int]) -> None:
        """A step uses these parameters: those that are still not cleared are stale."""
        self.stale.extend(
            p
            for p, gradient, _ in self._suspects
            if id(p) in used and p.grad is not None and p.grad is gradient()
        )

    def _leaves(self) -> list[nn.Parameter]:
        """The parameters; while they are replaced, as `torch.func.functional_call` does, what
        stands for them has no gradients to ask for.
        """
        return [p for p in self.model.parameters() if p.is_leaf]

    def _is_cleared(self) -> bool:
        """Whether the gradients of a backward pass were cleared without a step, as a GradScaler's
        user does after an overflow.
        """
        leaves = self._leaves()
        return not self.updating and bool(leaves) and all(p.grad is None for p in leaves)


_Mark = tuple[nn.Parameter, weakref.ref[Tensor], int]
"""A parameter, its gradient, and how often that had been written to."""


def _untouched(marks: Sequence[_Mark], *, writes: int) -> list[_Mark]:
    """Those whose gradient is the very tensor that it was, written to no more often since; as of
    now.
    """
    kept = [
        (p, gradient, version, p.grad)
        for p, gradient, version in marks
        if p.grad is not None and p.grad is gradient()
    ]
    return [
        (p, gradient, grad._version)
        for p, gradient, version, grad in kept
        if grad._version - version <= writes
    ]


def _is_left(mark: _Mark) -> bool:
    """Whether a gradient still stands after its backward pass; what else has written to it may have
    cleared it, which a GPU is not asked.
    """
    gradient = mark[0].grad
    return bool(_untouched([mark], writes=1)) or (
        gradient is not None and gradient.device.type == "cpu" and bool(gradient.any())
    )


def _find_scaler() -> Any:
    """The GradScaler that is making this step, found on the stack; None where it is not one."""
    frame = sys._getframe(3)
    for _ in range(_FRAMES):
        if frame is None or frame.f_back is None:
            break
        frame = frame.f_back
        if frame.f_code.co_name == "step" and isinstance(
            frame.f_locals.get("self"), torch.amp.GradScaler
        ):
            return frame.f_locals["self"]
    return None


def read_scale(scaler: Any) -> Tensor | float | None:
    """By what a GradScaler multiplies now; a copy, as it writes over it."""
    if scaler is None or not scaler.is_enabled():
        return None
    held = getattr(scaler, "_scale", None)
    return held.detach().clone() if isinstance(held, Tensor) else float(scaler.get_scale())


class _Hook:
    """Points to the loop; a copy points to none."""

    __torch_unserializable__ = True

    def __init__(self, loop: Loop | None = None) -> None:
        self.loop = loop

    def __deepcopy__(self, memo: object) -> "_Hook":
        return type(self)()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return type(self), ()

    def tell(self, what: Callable[..., None], *args: Any) -> None:
        """The user's loop goes on, whatever we stumble over."""
        if is_own_pass():  # of a diagnosis, say, in the middle of the user's loop
            return
        try:
            what(*args)
        except NonFiniteError:
            raise
        except Exception as error:
            if self.loop is not None:
                said = (
                    f"a step was not observed in full ({type(error).__name__}: {error}); please "
                    "report this"
                )
                self.loop.wiring.stumbled[said] = None


class _RootBefore(_Hook):
    def __call__(self, module: nn.Module, args: Any) -> None:  # noqa: ARG002
        """The root's pre-hook."""
        if self.loop is not None and module is self.loop.model:
            self.tell(self.loop.enter_root)


class _RootAfter(_Hook):
    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:  # noqa: ARG002
        """The root's hook; called also after an exception, then without keyword arguments."""
        if self.loop is not None and module is self.loop.model:
            self.tell(self.loop.leave_root, args, output)


class _Beginning(_Hook):
    def __call__(self, gradient: Tensor) -> None:  # noqa: ARG002
        """A hook on the root's output."""
        if self.loop is not None:
            self.tell(self.loop.begin_backward)


class _StepBefore(_Hook):
    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """The optimizer's pre-hook."""
        if self.loop is not None:
            self.tell(self.loop.before_update, optimizer)


class _StepAfter(_Hook):
    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """The last optimizer's post-hook."""
        if self.loop is not None:
            self.tell(self.loop.finish)
