"""Remedies of the training loop: what is called in a step, and in which order."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import is_idle, spoken, variable
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.remedies.gradients import clip_again, clip_as, read_limits
from cnnprobe.remedies.initialisation import initialise_every_layer
from cnnprobe.remedies.loop_lines import (
    add_clip,
    add_step,
    add_unscale,
    add_zero_grad,
    add_zero_grad_after_others,
    clear_after_step,
    drop_inner_zero_grad,
    freeze_modules,
    move_clip,
    move_schedule,
    move_zero_grad,
)
from cnnprobe.remedies.mode_lines import add_train
from cnnprobe.remedies.model_lines import set_keyword
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.rulebook.eval_mode_in_train import find_eval
from cnnprobe.training.probing import find_resting


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


@answers("eval-mode-in-train")
def train_first(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """train() before each step."""
    yield Remedy(
        title=f"call {variable(evidence, 'model')}.train() before the training step",
        change=_train_at_forward,
        edited=lambda program: add_train(program, find_eval(evidence)),
        shows="dropout and BatchNorm train in every step",
        is_comparable=False,
    )


def _train_at_forward(subject: Subject) -> None:
    """train() before each forward that is trained with; what is evaluated under no_grad is left
    alone.
    """

    def train(model: nn.Module, *_: Any) -> None:
        if torch.is_grad_enabled():
            model.train()

    subject.model.register_forward_pre_hook(train)


@answers("step-missing", "idle-optimizer")
def step_last(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The optimizer's step at the end."""
    if not evidence.optimizers:
        return
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
        optimizer.zero_grad = _clear_nothing  # type: ignore[method-assign]
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


def _clear_nothing(*_: object, **__: object) -> None:
    """Stands in the place of a zero_grad."""


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


@answers("clip-ineffective")
def clip_between(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The same clip right before the optimizer's step."""
    if any(event.kind == "scale" for step in evidence.steps for event in step.events):
        scale = max((loss.scale for s in evidence.steps[:1] for loss in s.losses), default=1.0)
        name = variable(evidence, "optimizer")
        yield Remedy(
            title=f"call scaler.unscale_({name}) before the clip",
            change=lambda subject: clip_again(subject, 1 / scale, None),
            edited=add_unscale,
            by_loss=True,
        )
        return
    yield Remedy(
        title="move the clip_grad call between loss.backward() and optimizer.step()",
        change=_clip_between,
        edited=move_clip,
        shows="every step uses gradients that are clipped",
        is_comparable=False,
    )


def _clip_between(subject: Subject) -> None:
    limits = read_limits(subject)

    def clip(optimizer: Any, *_: Any) -> None:
        clip_as(optimizer, limits)

    for optimizer in subject.optimizers:
        optimizer.register_step_pre_hook(clip)


@answers("lr-collapsed")
def schedule_by_epoch(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """No scheduler's step in the step of a batch; the least loss as what a plateau waits for."""
    name = variable(evidence, "scheduler")
    if finding.kind == "waits-for-more":
        yield Remedy(
            title=f'mode="min" in {finding.subject}',
            change=_wait_for_less,
            edited=lambda program: set_keyword(
                program.request.caller, "ReduceLROnPlateau", "mode", '"min"'
            ),
            shows="the learning rate stays while the loss falls",
        )
        return
    if finding.kind == "compounding":
        yield Remedy(
            title=f"base_lrs in the place of the current rates in get_lr() of {finding.subject}",
            change=lambda subject: _start_from_base(subject, finding.subject),
            shows="the factors of the schedule do not multiply up",
            is_comparable=False,
        )
        return
    if finding.kind == "factor-of-zero":
        return  # which number is meant is not known
    yield Remedy(
        title=f"call {name}.step() once an epoch, after the loop over the batches",
        change=_keep_rates,
        edited=move_schedule,
        shows=f"the learning rate is the same after {len(evidence.steps)} batches",
        is_comparable=False,
    )


def _start_from_base(subject: Subject, name: str) -> None:
    """Let get_lr find the base rates where it reads the current ones."""
    schedulers = dict(subject.around.schedulers.values())
    scheduler: Any = schedulers[name]
    inner = scheduler.get_lr

    def get_rates() -> Any:
        groups = scheduler.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group, base in zip(groups, scheduler.base_lrs, strict=True):
            group["lr"] = base
        try:
            return inner()
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    scheduler.__dict__["get_lr"] = get_rates


def _wait_for_less(subject: Subject) -> None:
    for _, scheduler in subject.around.schedulers.values():
        if getattr(scheduler, "mode", "") == "max":
            scheduler.mode, scheduler.best = "min", float("inf")


def _keep_rates(subject: Subject) -> None:
    for _, scheduler in subject.around.schedulers.values():
        scheduler.step = _do_nothing


def _do_nothing(*_: Any, **__: Any) -> None:
    """Stands where the scheduler's step was."""


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


@answers("frozen-bn-drift")
def freeze_statistics(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """eval() of every BatchNorm that is frozen."""
    bare = replace(evidence, names={"model": ""})
    yield Remedy(
        title=f"call {spoken(evidence, finding.module)}.eval() after "
        f"{variable(evidence, 'model')}.train(), and the others alike",
        change=_freeze_statistics,
        edited=lambda program: freeze_modules(
            program, [spoken(bare, n) for n in _name_frozen(model)]
        ),
        shows="the running statistics of frozen layers stay as they are",
        is_comparable=False,
    )


def _freeze_statistics(subject: Subject) -> None:
    frozen = list(_name_frozen(subject.model).values())

    def freeze() -> None:
        for module in frozen:
            module.eval()

    for module in frozen:  # also where the step itself calls train()
        module.__dict__["train"] = functools.partial(_stay_in_eval, module)
    subject.before_each_step(freeze)


def _name_frozen(model: nn.Module) -> dict[str, nn.Module]:
    """The BatchNorms without a trained weight, or that were put into eval mode, by name."""
    resting = find_resting(model)
    return {
        name: module
        for name, module, _ in named_modules(model)
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (name in resting or not any(p.requires_grad for p in module.parameters()))
    }


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, mode=False)


@answers("exploding-gradient")
def clip_gradients(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Fresh weights by fan-in; then a clip before each step."""
    yield replace(initialise_every_layer(model), by_loss=True)
    yield Remedy(
        title="clip the gradients to a norm of 1 between backward and step",
        change=_clip_to_one,
        edited=lambda program: add_clip(program, 1.0),
        by_loss=True,
    )


def _clip_to_one(subject: Subject) -> None:
    def clip(optimizer: Any, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)

    for optimizer in subject.optimizers:
        optimizer.register_step_pre_hook(clip)
