"""Remedies of the schedule of the learning rate."""

from collections.abc import Iterator
from typing import Any

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import variable
from cnnprobe.remedies.loop_lines import add_schedule, move_schedule
from cnnprobe.remedies.model_lines import set_keyword
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import Subject


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
    if finding.kind in ("factor-of-zero", "own-formula", "counts-epochs", "negative"):
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
        scheduler.step = _stay


def _stay(*_: object, **__: object) -> None:
    """Stands in the place of a scheduler's step."""


@answers("schedule-at-zero")
def begin_at_base(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The scheduler stepped where no step does it; else a factor of 1 in the place of 0."""
    if finding.kind == "never-stepped":
        yield Remedy(
            title=f"call {evidence.schedules[0].name}.step() after each step of the optimizer",
            change=_step_schedulers,
            edited=add_schedule,
            shows="the weights change from the second step on",
        )
    elif evidence.schedules:
        yield Remedy(
            title=f"let the function of {evidence.schedules[0].name} return a factor above 0",
            change=_begin_at_base,
            shows="the weights change in each step",
        )


def _begin_at_base(subject: Subject) -> None:
    for _, scheduler in subject.around.schedulers.values():
        scheduler.lr_lambdas = [_one for _ in scheduler.lr_lambdas]
        rates = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=False)
        for group, rate in rates:
            group["lr"] = rate


def _step_schedulers(subject: Subject) -> None:
    for _, scheduler in subject.around.schedulers.values():
        subject.after_each_step(scheduler.step)


def _one(_: int) -> float:
    return 1.0
