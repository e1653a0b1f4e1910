"""Steps without a backward."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(backward: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        if backward:
            loss.backward()
        optimizer.step()
        return loss

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """Forward, loss, step."""
    return _loop(backward=False)


def healthy() -> Mapping[str, Any]:
    """Forward, loss, backward, step."""
    return _loop(backward=True)


@rule(
    code="CP514",
    name="backward-missing",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="unchanged-weights",
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def backward_missing(evidence: Evidence) -> Iterator[Finding]:
    """An optimizer steps, but backward is never called.

    Why it matters: no parameter has a gradient, and a step without gradients does nothing and
    raises nothing.
    What to do: call loss.backward() between the loss and the step.
    Known exceptions: gradients that are written by hand, which change the parameters all the same.
    Source: torch.optim, "Taking an optimization step".
    """
    events = [e for s in evidence.steps for e in s.events if e.kind in ("backward", "step")]
    stepped = [e for e in events if e.kind == "step"]
    if not evidence.own_loop or len(stepped) < 2 or len(stepped) < len(events):
        return
    if any(change > 0 for step in evidence.steps for change in step.changes.values()):
        return
    name = stepped[0].subject
    yield Finding(
        module=None,
        message=(
            f"{name} steps {format_counted(len(stepped), 'time')} after 0 backward passes: no "
            "parameter has a gradient"
        ),
        fix=f"call loss.backward() before {name}.step()",
    )
