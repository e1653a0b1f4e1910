"""Probabilities into a loss that takes their logarithms."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import (
    are_probabilities,
    input_stats,
    loss_calls,
    spoken,
    stat,
    variable,
)
from cnnprobe.rulebook.material import classifying, perceptron


def sick() -> Mapping[str, Any]:
    """A softmax where a log_softmax was meant."""
    from torch import nn

    return classifying(perceptron(end=(nn.Softmax(dim=1),)), loss_fn=nn.NLLLoss())


def healthy() -> Mapping[str, Any]:
    """Log-probabilities."""
    from torch import nn

    return classifying(perceptron(end=(nn.LogSoftmax(dim=1),)), loss_fn=nn.NLLLoss())


@rule(
    code="CP403",
    name="probs-into-nll",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("negative-loss", "loss-not-decreasing", "cannot-overfit", "loss-at-init"),
)
def probs_into_nll(evidence: Evidence) -> Iterator[Finding]:
    """nll_loss gets probabilities instead of log-probabilities.

    Why it matters: the loss is then minus the mean probability, between -1 and 0: a wrong class
    costs next to nothing.
    What to do: use log_softmax instead of softmax, or give logits to CrossEntropyLoss.
    Known exceptions: none.
    Source: torch.nn.NLLLoss, "The input given through a forward call is expected to contain
    log-probabilities of each class".
    """
    for loss in loss_calls(evidence):
        if loss.operation != "nll_loss":
            continue
        given = input_stats(loss.flow, loss.prediction)
        if loss.origin_operation in ("softmax", "sigmoid") or are_probabilities(given):
            place = (
                loss.origin
                if loss.origin_operation in ("softmax", "sigmoid")
                else loss.flow.producer(loss.prediction)
            )
            yield Finding(
                module=loss.flow.owner(place),
                message=(
                    f"{variable(evidence, 'loss_fn')} takes log-probabilities, which are at most "
                    f"0, but gets values from {stat(given, 'min'):.3g} to {stat(given, 'max'):.3g}"
                ),
                fix=(
                    f"use log_softmax in {spoken(evidence, loss.flow.owner(place))}, or drop the "
                    "softmax and use nn.CrossEntropyLoss()"
                ),
                source=loss.flow.line(place),
            )
