"""Remedies of the training loop: what is called in a step, and in which order."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import is_idle, variable
from cnnprobe.remedies.loop_lines import (
    add_step,
    add_zero_grad,
    add_zero_grad_after_others,
    clear_after_step,
    drop_inner_zero_grad,
    move_zero_grad,
)
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError, Subject


@answers("no-zero-grad")
def clear_gradients(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """zero_grad before each step; after each other optimizer's step, where two take turns."""
    stale = next((len(step.stale) for step in evidence.steps if step.stale), 0)
    if stale:
        name = finding.subject or variable(evidence, "optimizer")
        yield Remedy(
            title=f"call {name}.zero_grad() before loss.backward()",
            change=_clear_first,
            edited=add_zero_grad,
            shows=f"0 gradients hold those of the step before (as it is, {stale})",
            is_comparable=False,
        )
        if len(evidence.optimizers) == 1:
            return
    used = next((step.mixed[0] for step in evidence.steps if step.mixed), "")
    yield Remedy(
        title="call zero_grad() of the other optimizers after each optimizer's step",
        change=_clear_others,
        edited=lambda program: add_zero_grad_after_others(program, used),
        shows="0 gradients are of another optimizer's loss",
        is_comparable=False,
    )


def _clear_first(subject: Subject) -> None:
    """Before each step, and before what a closure computes within it."""

    def clear() -> None:
        for optimizer in subject.optimizers:
            optimizer.zero_grad()

    def step(plain: Any, closure: Any = None, **more: Any) -> Any:
        def clear_and_compute() -> Any:
            clear()
            return closure()

        return plain(clear_and_compute, **more) if closure else plain(**more)

    for optimizer in subject.optimizers:
        optimizer.step = functools.partial(step, optimizer.step)  # type: ignore[method-assign]
    subject.before_each_step(clear)


def _clear_others(subject: Subject) -> None:
    optimizers = subject.optimizers
    if len(optimizers) < 2:
        raise CannotTryError("there is one optimizer only")

    def clear(stepped: Any, *_: Any) -> None:
        for optimizer in optimizers:
            if optimizer is not stepped:
                optimizer.zero_grad()

    for optimizer in optimizers:
        optimizer.register_step_post_hook(clear)


@answers("step-missing", "idle-optimizer")
def step_last(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The optimizer's step at the end."""
    if not evidence.optimizers or finding.kind in ("beside", "frozen"):
        return  # at the end of the step, the gradients of the other losses are among its own
    name = variable(evidence, "optimizer")
    if finding.kind == "cleared-between-steps":
        yield Remedy(
            title=f"call {name}.zero_grad() right after {name}.step(), and nowhere else",
            change=_clear_after_step,
            edited=clear_after_step,
            shows="each step uses the gradients of all backward passes",
            is_comparable=False,
        )
        return
    if any(step.wasted for step in evidence.steps):
        yield Remedy(
            title=f"call {name}.zero_grad() once, before the loop over the parts of a batch",
            change=_clear_at_first,
            edited=drop_inner_zero_grad,
            shows="each step uses the gradients of all backward passes",
            is_comparable=False,
        )
        return
    yield Remedy(
        title=f"call {name}.step() after loss.backward()",
        change=lambda subject: _step_last(subject, evidence),
        edited=add_step,
        shows="the weights change in each step",
    )


def _clear_at_first(subject: Subject) -> None:
    """Only the first zero_grad of each step clears."""
    for optimizer in subject.optimizers:
        turn = _Once(optimizer.zero_grad)
        optimizer.zero_grad = turn  # type: ignore[method-assign]
        subject.before_each_step(turn.begin)


def _clear_after_step(subject: Subject) -> None:
    """What clears does so at the end of what has stepped, and nowhere else."""
    for optimizer in subject.optimizers:
        turn = _AfterStep(optimizer.zero_grad)
        optimizer.zero_grad = _do_nothing  # type: ignore[method-assign]
        subject.undo(optimizer.register_step_post_hook(turn.note).remove)
        subject.after_each_step(turn.end)


class _AfterStep:
    """Clears at the end of a training step in which the optimizer stepped."""

    def __init__(self, clear: Callable[..., Any]) -> None:
        self.clear, self.is_due = clear, False

    def note(self, *_: object) -> None:
        """The optimizer stepped."""
        self.is_due = True

    def end(self) -> None:
        """A training step ends."""
        if self.is_due:
            self.clear()
        self.is_due = False


class _Once:
    """Calls a function the first time in each step."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.is_done = function, False

    def begin(self) -> None:
        """A step begins."""
        self.is_done = False

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """What the function does, once."""
        if not self.is_done:
            self.function(*args, **kwargs)
        self.is_done = True


def _step_last(subject: Subject, evidence: Evidence) -> None:
    """The step of each optimizer that makes none."""
    idle = {info.name for info in evidence.optimizers if is_idle(evidence, info)}
    chosen = [o for name, o in subject.around.optimizers.values() if name in idle]

    def step() -> None:
        for optimizer in chosen:
            optimizer.step()

    subject.after_each_step(step)


def _do_nothing(*_: object, **__: object) -> None:
    """Stands in the place of a zero_grad."""


@answers("gradients-cleared")
def clear_before_backward(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """zero_grad where it belongs: first, and not between backward and step."""
    name = variable(evidence, "optimizer")
    yield Remedy(
        title=f"move {name}.zero_grad() to before loss.backward()",
        change=_clear_once,
        edited=move_zero_grad,
        shows="every step has gradients to use",
    )


def _clear_once(subject: Subject) -> None:
    for optimizer in subject.optimizers:
        clear = optimizer.zero_grad
        optimizer.zero_grad = _do_nothing  # type: ignore[method-assign]
        subject.before_each_step(clear)
