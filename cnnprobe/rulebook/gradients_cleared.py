"""Gradients that are cleared before they are used."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import clears_before_stepping
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(late: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        if not late:
            optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        if late:
            optimizer.zero_grad()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """backward, zero_grad, step."""
    return _loop(late=True)


def healthy() -> Mapping[str, Any]:
    """zero_grad, backward, step."""
    return _loop(late=False)


@rule(
    code="CP515",
    name="gradients-cleared",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="unchanged-weights",
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def gradients_cleared(evidence: Evidence) -> Iterator[Finding]:
    """zero_grad is called between backward and step, so that the step has no gradients.

    Why it matters: no parameter ever changes, and nothing raises.
    What to do: call zero_grad before backward, or after the step.
    Known exceptions: a zero_grad of another optimizer; loops where some of the steps have their
    gradients.
    Source: torch.optim.Optimizer.zero_grad, "Reset the gradients of all optimized torch.Tensor s".
    """
    if not clears_before_stepping(evidence):
        return
    stepped = [e for s in evidence.steps for e in s.events if e.kind == "step"]
    name = stepped[0].subject
    yield Finding(
        module=None,
        message=(
            f"{name}.zero_grad() comes between backward and step: 0 of "
            f"{format_counted(len(stepped), 'step')} have a gradient to use"
        ),
        fix=f"move {name}.zero_grad() to before loss.backward()",
    )
