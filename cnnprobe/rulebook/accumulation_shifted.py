"""Gradients of several batches that are added up, and not as they were meant."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(shifts: bool) -> Mapping[str, Any]:
    def early(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        for i in range(4):
            (loss_fn(model(inputs[i::4]), targets[i::4]) / 2).backward()
            if i % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()

    def late(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        for i in range(4):
            (loss_fn(model(inputs[i::4]), targets[i::4]) / 2).backward()
            if (i + 1) % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()

    return stepping(perceptron(), early if shifts else late)


def sick() -> Mapping[str, Any]:
    """A step after the first and the third batch."""
    return _loop(shifts=True)


def healthy() -> Mapping[str, Any]:
    """A step after the second and the fourth."""
    return _loop(shifts=False)


@rule(
    code="CP565", name="accumulation-shifted", severity=Severity.WARNING, examples=(sick, healthy)
)
def accumulation_shifted(evidence: Evidence) -> Iterator[Finding]:
    """A loop that adds up the gradients of several batches steps after the first one, clears them
    or steps in every round, or adds up losses that are not divided.

    Why it matters: with i % n == 0 and i from 0, the first step sees one batch, and the last ones
    of an epoch are left over; without a division the step is n times as long.
    What to do: if (i + 1) % n == 0, and a step after the loop for what is left; loss / n.
    Known exceptions: a loss that is not divided is info, as the learning rate may allow for it;
    only the text of the user's files is read.
    Source: PyTorch, "Automatic Mixed Precision examples", gradient accumulation.
    """
    for slip in evidence.texts.slips:
        said = _say(slip)
        if said is not None:
            message, fix = said
            yield Finding(
                module=None,
                severity=Severity.INFO if slip.kind == "undivided" else None,
                message=message,
                fix=fix,
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )


def _say(slip: Slip) -> tuple[str, str] | None:
    """What is wrong and what to do; None where it is no accumulation."""
    text, name, count = slip.text, slip.name, slip.value
    if slip.kind == "first-step":
        return (
            f"`{text}` is true in the first round, as {name} starts at 0: the first step has the "
            f"gradients of 1 batch and not of {count}, and the last batches of a loop are left over"
        ), f"if ({name} + 1) % {count} == 0, and a step behind the loop"
    if slip.kind == "every-clear":
        return (
            f"`{text}` clears the gradients in every round, and {name} steps in one of {count}: "
            "each step has the gradients of 1 batch, those of the others are lost"
        ), f"call `{text}` right after {name}.step(), under the same condition"
    if slip.kind == "every-step":
        return (
            f"`{text}` stands outside of the condition on every {count}-th round: it steps with "
            f"one batch, whose loss is divided by {count}"
        ), f"move `{text}` and the zero_grad() under the condition"
    if slip.kind == "undivided":
        return (
            f"the gradients of {count} batches are added up, and their losses are not divided: "
            f"each step is {count} times that of the mean"
        ), f"divide the loss by {count} before its backward"
    return None
