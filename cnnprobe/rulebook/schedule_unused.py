"""A learning rate that never reaches the optimizer that steps."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(writes: bool) -> Mapping[str, Any]:
    def copying(optimizer: Any, rate: float) -> None:
        for group in optimizer.param_groups:
            group = {**group, "lr": rate}  # noqa: PLW2901

    def writing(optimizer: Any, rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate

    adjust = writing if writes else copying

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        adjust(optimizer, 0.04)
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The rate is written to a copy of the group."""
    return _loop(writes=False)


def healthy() -> Mapping[str, Any]:
    """It is written to the group."""
    return _loop(writes=True)


@rule(code="CP564", name="schedule-unused", severity=Severity.WARNING, examples=(sick, healthy))
def schedule_unused(evidence: Evidence) -> Iterator[Finding]:
    """A learning rate is written to a copy of an optimizer's group, a scheduler belongs to an
    optimizer whose variable was given another one behind it, or counts batches and steps once an
    epoch.

    Why it matters: the optimizer that steps keeps the rate that it was made with; a OneCycleLR that
    is stepped once an epoch stays at the low rate of its beginning.
    What to do: group["lr"] = rate; make the scheduler after the optimizer; step it as often as its
    length says.
    Known exceptions: only the text of the user's files is read.
    Source: torch.optim, "param_groups"; torch.optim.lr_scheduler, which keeps the optimizer object.
    """
    for slip in evidence.texts.slips:
        if slip.kind == "group-copied":
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` gives the variable {slip.name} another object, and nothing "
                    f"writes to the groups of {slip.value}: the learning rate stays"
                ),
                fix=f'{slip.name}["lr"] = ...',
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )
        elif slip.kind == "old-optimizer":
            yield Finding(
                module=None,
                message=(
                    f"{slip.name} changes the learning rate of the {slip.value} that was replaced "
                    "after it was made: the one that steps keeps its rate"
                ),
                fix=f"make {slip.name} after the last {slip.value} = ...",
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )
        elif slip.kind == "counts-batches":
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` counts batches ({slip.value}), and {slip.name}.step() is "
                    "called once an epoch: the training ends near the beginning of the schedule"
                ),
                fix=f"call {slip.name}.step() after each optimizer.step(), in the loop over the "
                "batches",
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )
