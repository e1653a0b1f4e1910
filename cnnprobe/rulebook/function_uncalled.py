"""A statement that is the name of a function, without its brackets."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(calls: bool) -> Mapping[str, Any]:
    def naming(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad  # noqa: B018
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    def calling(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    return stepping(perceptron(), calling if calls else naming)


def sick() -> Mapping[str, Any]:
    """zero_grad is named, and not called."""
    return _loop(calls=False)


def healthy() -> Mapping[str, Any]:
    """It is called."""
    return _loop(calls=True)


@rule(
    code="CP581",
    name="function-uncalled",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("no-zero-grad", "step-missing", "backward-missing", "eval-mode-in-train"),
)
def function_uncalled(evidence: Evidence) -> Iterator[Finding]:
    """A statement names a function or method, and does not call it; or it compares two values where
    one was to be assigned.

    Why it matters: Python looks the function up and drops it; nothing that it does is done.
    What to do: add the brackets.
    Known exceptions: properties; only the functions of the same file and the usual methods of a
    training loop are known, and only the text of the user's files is read.
    Source: The Python Language Reference, section 7.1, expression statements.
    """
    for slip in evidence.texts.slips:
        if slip.kind == "uncalled":
            yield Finding(
                module=None,
                message=f"`{slip.text}` is the name of a function and not a call: nothing is done",
                fix=f"{slip.text}()",
                source=slip.source,
                subject=slip.text,
            )
        elif slip.kind == "compared":
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` is a comparison whose result is dropped: {slip.name} stays as "
                    "it is"
                ),
                fix=slip.text.replace("==", "=", 1),
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )
