"""An evaluation that steps the optimizer."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(trains: bool) -> Mapping[str, Any]:
    def validate(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        for x, y in zip(inputs.split(4), targets.split(4), strict=True):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()

    def train_epoch(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        for x, y in zip(inputs.split(4), targets.split(4), strict=True):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()

    return stepping(perceptron(), validate if trains else train_epoch)


def sick() -> Mapping[str, Any]:
    """The validation is a copy of the training."""
    return _loop(trains=True)


def healthy() -> Mapping[str, Any]:
    """It is the training."""
    return _loop(trains=False)


@rule(code="CP571", name="evaluation-trains", severity=Severity.ERROR, examples=(sick, healthy))
def evaluation_trains(evidence: Evidence) -> Iterator[Finding]:
    """A function that evaluates, or the round of a loop that validates, steps the optimizer.

    Why it matters: the model is trained on the validation data, whose loss and accuracy then say
    nothing about new data.
    What to do: no backward and no step there, and torch.no_grad() around it; in a loop over the
    phases, `if phase == "train":`.
    Known exceptions: an optimizer that the function makes itself, as that of a linear probe;
    functions whose name says that they adapt, tune or attack. Only the text of the user's files is
    read, and what evaluates is taken from its name.
    Source: PyTorch tutorials, "Transfer Learning": "backward + optimize only if in training phase".
    """
    for slip in evidence.texts.slips:
        if slip.kind == "evaluation-trains":
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` in {slip.name} trains the model on the data that it is "
                    "evaluated with"
                ),
                fix=(
                    f"leave out zero_grad, backward and {slip.text} where the model is evaluated, "
                    "and put it under torch.no_grad()"
                ),
                source=slip.source,
                subject=slip.name,
            )
