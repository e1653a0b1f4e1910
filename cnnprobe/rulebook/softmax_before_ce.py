"""Probabilities into a cross entropy that takes logits."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, describe
from cnnprobe.diagnosis.evidence.questions import (
    are_probabilities,
    input_stats,
    loss_calls,
    spoken,
    stat,
    variable,
)
from cnnprobe.rulebook.material import classifying, layers, perceptron


def sick() -> Mapping[str, Any]:
    """A softmax as the model's last layer."""
    from torch import nn

    return classifying(perceptron(end=(nn.Softmax(dim=1),)))


def healthy() -> Mapping[str, Any]:
    """A softmax inside the model, as weights of its features, and logits at its end."""
    import torch
    from torch import nn

    class Weighing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.weights = nn.Linear(64, 16), nn.Linear(64, 16)
            self.fc = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> Any:
            x = x.flatten(1)
            return self.fc(self.features(x).relu() * self.weights(x).softmax(1))

    return classifying(layers(Weighing))


@rule(
    code="CP401",
    name="softmax-before-ce",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit", "vanishing-gradient", "lr-too-low"),
)
def softmax_before_ce(evidence: Evidence) -> Iterator[Finding]:
    """Cross entropy gets the output of a softmax, and applies a second one.

    Why it matters: two softmaxes flatten the distribution, so that the loss cannot fall below about
    ln(C) - 1 and the gradients are small.
    What to do: take the softmax out of the model while training; apply it where probabilities are
    wanted.
    Known exceptions: a log_softmax is harmless, as a second one changes nothing.
    Source: torch.nn.CrossEntropyLoss, "The input is expected to contain the unnormalized logits".
    """
    for loss in loss_calls(evidence):
        if loss.operation != "cross_entropy":
            continue
        axis = 1 if len(loss.prediction.shape) > 1 else 0
        given = input_stats(loss.flow, loss.prediction)
        is_softmax = loss.origin_operation == "softmax"
        if not is_softmax and not are_probabilities(given, axis):
            continue
        place = loss.origin if is_softmax else loss.flow.producer(loss.prediction)
        what = describe(loss.flow.calls[place]) if place is not None else "what comes in"
        yield Finding(
            module=loss.flow.owner(place),
            message=(
                f"{variable(evidence, 'loss_fn')} is a cross entropy of logits, but gets "
                f"probabilities: {what} gives values from {stat(given, 'min'):.3g} to "
                f"{stat(given, 'max'):.3g} that add up to 1"
            ),
            fix=(
                f"remove the softmax from {spoken(evidence, loss.flow.owner(place))} and give "
                f"{variable(evidence, 'loss_fn')} the logits"
            ),
            source=loss.flow.line(place),
            subject=describe(loss.flow.calls[place]) if place is not None else "",
        )
