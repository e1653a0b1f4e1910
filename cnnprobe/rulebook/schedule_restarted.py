"""A schedule that was made anew for a training that goes on."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import classifying, perceptron


def _resume(told: bool) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.05
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: 0.5**epoch, last_epoch=4 if told else -1
    )
    scheduler.last_epoch = 5
    return classifying(model, optimizer=optimizer, scheduler=scheduler)


def sick() -> Mapping[str, Any]:
    """last_epoch is set behind the constructor, which has set the first rate."""
    return _resume(told=False)


def healthy() -> Mapping[str, Any]:
    """last_epoch is given to the constructor."""
    return _resume(told=True)


@rule(
    code="CP546",
    name="schedule-restarted",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("lr-too-high", "divergence"),
)
def schedule_restarted(evidence: Evidence) -> Iterator[Finding]:
    """A LambdaLR was made anew in the middle of a training: the learning rate is that of its first
    epoch, and it counts from a later one.

    Why it matters: the constructor sets the first rate, also in an optimizer whose state was
    loaded; the training that goes on makes steps of the wrong size until the scheduler steps.
    What to do: scheduler.load_state_dict(...), and after it the optimizer's; or last_epoch= in the
    constructor.
    Known exceptions: schedulers that are no LambdaLR; one that has stepped.
    Source: torch.optim.lr_scheduler.LambdaLR, "When last_epoch=-1, sets initial lr as lr".
    """
    found = evidence.restarted
    if found is not None:
        yield Finding(
            module=None,
            message=(
                f"{found.name} was made anew and set to epoch {found.epoch}: the learning rate is "
                f"{found.rate:.3g}, that of its first epoch; in epoch {found.epoch} the schedule "
                f"has {found.planned:.3g}"
            ),
            fix=(
                f"save {found.name}.state_dict() in the checkpoint and load it, before that of the "
                f"optimizer; or give last_epoch={found.epoch - 1} to its constructor"
            ),
            subject=found.name,
        )
