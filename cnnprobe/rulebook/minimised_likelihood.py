"""A likelihood that is minimised."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.loss_terms import TermKind, find_loss_terms, is_maximised
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(sign: float) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, _loss_fn: Any) -> None:
        import torch

        optimizer.zero_grad()
        likelihood = torch.log_softmax(model(inputs), 1)[torch.arange(len(targets)), targets]
        loss: Any = sign * likelihood.mean()
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The log-probability of the labels is minimised."""
    return _loop(1.0)


def healthy() -> Mapping[str, Any]:
    """Minus it is."""
    return _loop(-1.0)


@rule(
    code="CP416",
    name="minimised-likelihood",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="loss-sign",
    explains=(
        "minimum-elsewhere",
        "negative-loss",
        "divergence",
        "loss-not-decreasing",
        "cannot-overfit",
        "lr-too-high",
        "exploding-gradient",
    ),
)
def minimised_likelihood(evidence: Evidence) -> Iterator[Finding]:
    """The loss is a log-likelihood, and the optimizer makes it smaller.

    Why it matters: the labels become less likely with each step, and the loss falls without end.
    What to do: put a minus before it.
    Known exceptions: an optimizer with maximize=True; only a loss below 0 is judged.
    Source: torch.nn.NLLLoss, the negative log likelihood loss.
    """
    if is_maximised(evidence):
        return
    flow = Flow(evidence.trace)
    for each in find_loss_terms(evidence, flow):
        value = each.loss.value
        if (
            each.term is TermKind.LIKELIHOOD
            and not each.is_negated
            and value is not None
            and value < 0
        ):
            yield Finding(
                module=None,
                message=(
                    f"the loss is a log-likelihood without a minus: {value:.3g}, and the "
                    "optimizer makes the data less likely"
                ),
                fix="put a minus before it",
                source=flow.line(each.index),
            )
