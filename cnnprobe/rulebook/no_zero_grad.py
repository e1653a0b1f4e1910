"""Gradients that are never cleared."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import owner, spoken, topmost, variable
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(cleared: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        if cleared:
            optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """No zero_grad."""
    return _loop(cleared=False)


def healthy() -> Mapping[str, Any]:
    """Cleared before each backward."""
    return _loop(cleared=True)


@rule(
    code="CP501",
    name="no-zero-grad",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    monitored=True,
    explains=(
        "divergence",
        "lr-too-high",
        "exploding-gradient",
        "loss-not-decreasing",
        "cannot-overfit",
        "update-ratio",
    ),
)
def no_zero_grad(evidence: Evidence) -> Iterator[Finding]:
    """The optimizer steps with gradients to which those of earlier steps, or of another optimizer's
    loss, were added.

    Why it matters: backward adds to .grad; without zero_grad each step repeats all earlier ones.
    What to do: optimizer.zero_grad() before backward.
    Known exceptions: accumulation, which adds up several batches and clears after the step.
    Source: torch.optim.Optimizer.zero_grad.
    """
    mixed = next((step.mixed for step in evidence.steps if step.mixed is not None), None)
    if mixed is not None:
        optimizer, other, count = mixed
        yield Finding(
            module=None,
            message=(
                f"{optimizer} used {format_counted(count, 'gradient')} that still held those of "
                f"the loss that {other} had stepped with"
            ),
            fix=(
                f"call {optimizer}.zero_grad() after {other}.step() and before the next backward, "
                f"or detach() what {other}'s loss should not reach"
            ),
        )
        return
    for number, step in enumerate(evidence.steps):
        if step.stale:
            name = next(
                (e.subject for e in step.events if e.kind == "step"),
                variable(evidence, "optimizer"),
            )
            places = topmost({owner(p) for p in step.stale}, evidence.trace)
            of = f" of {spoken(evidence, places[0])}" if len(places) == 1 and places[0] else ""
            yield Finding(
                module=None,
                message=(
                    f"in step {number + 1} {name} used "
                    f"{format_counted(len(step.stale), 'gradient')}{of} that still "
                    "held those of the step before: there was no zero_grad between them"
                ),
                fix=f"call {name}.zero_grad() before loss.backward()",
                subject=name,
            )
            return
