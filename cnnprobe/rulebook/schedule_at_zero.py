"""A schedule that stays at 0."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, perceptron

# largest rise of the factor from one count to the next that counts batches: 50 of them at least
BY_BATCH = 0.02


def _warm_up(integer: bool) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: min(1.0, epoch // 5 if integer else epoch / 5)
    )
    return classifying(model, optimizer=optimizer, scheduler=scheduler)


def sick() -> Mapping[str, Any]:
    """A factor of epoch // 5 is 0 in the first five epochs."""
    return _warm_up(integer=True)


def healthy() -> Mapping[str, Any]:
    """A factor of epoch / 5 is 0 in the first alone."""
    return _warm_up(integer=False)


@rule(
    code="CP517",
    name="schedule-at-zero",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    family="unchanged-weights",
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def schedule_at_zero(evidence: Evidence) -> Iterator[Finding]:
    """A LambdaLR multiplies the learning rate by 0 at more than its first count, or stays at its
    first count because no step of a warm-up by batches steps it.

    Why it matters: nothing is learned for as long.
    What to do: let its function return a factor above 0 from the second count on: divide with / and
    not //. Call scheduler.step() after each optimizer.step() of a warm-up by batches.
    Known exceptions: a warm-up that is 0 at its first count alone; one whose second factor is more
    than 0.02, which counts epochs.
    Source: torch.optim.lr_scheduler.LambdaLR, "The learning rate of each parameter group is set to
    the initial lr times a given function".
    """
    if _is_never_stepped(evidence):
        first = evidence.schedules[0]
        yield Finding(
            module=None,
            message=(
                f"{first.name} is never stepped in "
                f"{format_counted(len(evidence.steps), 'step')}: the factor of the "
                f"learning rate stays 0 (it is {first.factors[1]:g} at the next count)"
            ),
            fix=f"call {first.name}.step() after each step of the optimizer",
            kind="never-stepped",
            subject=first.name,
        )
        return
    zeros = [
        sum(1 for _ in itertools.takewhile(lambda factor: factor == 0, s.factors))
        for s in evidence.schedules
    ]
    if not zeros or min(zeros) < 2 or any(rate for o in evidence.optimizers for rate in o.rates):
        return
    yield Finding(
        module=None,
        message=(
            f"{evidence.schedules[0].name} multiplies the learning rate by 0 in its first "
            f"{min(zeros)} counts (a warm-up does in 1 at most): nothing is learned in them"
        ),
        fix=(
            "let its function return a factor above 0 from the second count on: (count + 1) / n "
            "with / and not //, min(1.0, ...) around it"
        ),
        subject=evidence.schedules[0].name,
    )


def _is_never_stepped(evidence: Evidence) -> bool:
    """Whether the user's own steps leave a warm-up by batches where it is, at a factor of 0."""
    events = {event.kind for step in evidence.steps for event in step.events}
    return (
        evidence.own_loop
        and "step" in events
        and "schedule" not in events
        and bool(evidence.schedules)
        and all(s.factors[0] == 0 < s.factors[1] <= BY_BATCH for s in evidence.schedules)
        and not any(rate for o in evidence.optimizers for rate in o.rates)
    )
