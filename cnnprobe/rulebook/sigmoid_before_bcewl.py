"""Probabilities into a binary cross entropy that takes logits."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, describe
from cnnprobe.diagnosis.evidence.questions import loss_calls, spoken, variable
from cnnprobe.rulebook.material import classifying, layers

OF_LOGITS = ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")
PROBABLE = ("sigmoid", "softmax", "hardsigmoid")


def _binary(model: Any, **others: Any) -> Mapping[str, Any]:
    import torch
    from torch import nn

    targets = (torch.arange(8) % 2).float().unsqueeze(1)
    return classifying(model, targets=targets, loss_fn=nn.BCEWithLogitsLoss()) | others


def sick() -> Mapping[str, Any]:
    """A sigmoid at the end, and another one in the loss."""
    from torch import nn

    return _binary(
        layers(
            nn.Flatten(),
            lambda: nn.Linear(64, 16),
            nn.ReLU(),
            lambda: nn.Linear(16, 1),
            nn.Sigmoid(),
        )
    )


def healthy() -> Mapping[str, Any]:
    """The same with the loss that takes probabilities."""
    from torch import nn

    return _binary(
        layers(
            nn.Flatten(),
            lambda: nn.Linear(64, 16),
            nn.ReLU(),
            lambda: nn.Linear(16, 1),
            nn.Sigmoid(),
        ),
        loss_fn=nn.BCELoss(),
    )


@rule(
    code="CP402",
    name="sigmoid-before-bcewl",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit", "vanishing-gradient", "broken-formula"),
)
def sigmoid_before_bcewl(evidence: Evidence) -> Iterator[Finding]:
    """binary_cross_entropy_with_logits or multilabel_soft_margin_loss gets the output of a sigmoid
    or softmax.

    Why it matters: the loss applies a sigmoid itself; of values in [0, 1] it makes probabilities
    between 0.5 and 0.73, so no sample can be called negative.
    What to do: remove the sigmoid from the model, or use BCELoss.
    Known exceptions: none.
    Source: torch.nn.BCEWithLogitsLoss, "This loss combines a Sigmoid layer and the BCELoss in one
    single class".
    """
    for loss in loss_calls(evidence):
        if loss.operation in OF_LOGITS and loss.origin_operation in PROBABLE:
            call = loss.flow.calls[loss.origin] if loss.origin is not None else loss.call
            yield Finding(
                module=loss.flow.owner(loss.origin),
                message=(
                    f"{variable(evidence, 'loss_fn')} takes logits, but gets the output of "
                    f"{describe(call)}, which is in [0, 1]"
                ),
                fix=(
                    f"remove the {loss.origin_operation} from "
                    f"{spoken(evidence, loss.flow.owner(loss.origin))}, or use nn.BCELoss()"
                ),
                source=call.source,
                subject=describe(call),
            )
