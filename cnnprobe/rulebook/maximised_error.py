"""An optimizer that maximises an error."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.loss_terms import TermKind, find_loss_terms
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(sign: float) -> Mapping[str, Any]:
    import torch

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        (sign * loss_fn(model(inputs), targets)).backward()
        optimizer.step()

    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, maximize=True)
    return stepping(model, loop, optimizer=optimizer)


def sick() -> Mapping[str, Any]:
    """maximize=True, and a cross entropy."""
    return _loop(1.0)


def healthy() -> Mapping[str, Any]:
    """maximize=True, and minus a cross entropy."""
    return _loop(-1.0)


@rule(
    code="CP414",
    name="maximised-error",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="loss-sign",
    explains=(
        "minimum-elsewhere",
        "divergence",
        "loss-not-decreasing",
        "cannot-overfit",
        "lr-too-high",
        "exploding-gradient",
    ),
)
def maximised_error(evidence: Evidence) -> Iterator[Finding]:
    """The optimizer has maximize=True, and the loss is an error.

    Why it matters: the model learns to be wrong, and the loss rises.
    What to do: build the optimizer without maximize=True.
    Known exceptions: an error with a minus before it; losses against targets that the loop makes
    itself are not judged.
    Source: torch.optim.SGD, "maximize: maximize the objective with respect to the params, instead
    of minimizing".
    """
    terms = find_loss_terms(evidence, Flow(evidence.trace))
    if not any(each.term is TermKind.ERROR and not each.is_negated for each in terms):
        return
    for optimizer in evidence.optimizers:
        if optimizer.maximize and optimizer.parameters:
            yield Finding(
                module=None,
                message=f"{optimizer.name} has maximize=True, and the loss is an error",
                fix=f"build {optimizer.name} without maximize=True",
            )
            return
