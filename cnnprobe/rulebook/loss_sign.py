"""An error with a minus."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.loss_terms import TermKind, find_loss_terms, is_maximised
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(sign: float) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss = sign * loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The cross entropy is maximised."""
    return _loop(-1.0)


def healthy() -> Mapping[str, Any]:
    """It is scaled, and minimised."""
    return _loop(0.1)


@rule(
    code="CP408",
    name="loss-sign",
    severity=Severity.ERROR,
    examples=(sick, healthy),
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
def loss_sign(evidence: Evidence) -> Iterator[Finding]:
    """The loss is an error with a minus before it, so that the optimizer makes the error larger.

    Why it matters: the model learns to be wrong, and the loss falls without end.
    What to do: drop the minus.
    Known exceptions: an optimizer with maximize=True, where the minus is right; losses against
    targets that the loop makes itself (the generator's loss of a GAN) are not judged.
    Source: torch.optim.SGD, "maximize: maximize the objective with respect to the params, instead
    of minimizing".
    """
    flow = Flow(evidence.trace)
    for each in find_loss_terms(evidence, flow):
        if each.term is TermKind.ERROR and each.is_negated and not is_maximised(evidence):
            value = "" if each.loss.value is None else f" (loss {each.loss.value:.3g})"
            yield Finding(
                module=None,
                message=(
                    f"backward starts at minus {describe(flow.calls[each.index])}: the optimizer "
                    f"makes this error larger{value}"
                ),
                fix="remove the minus before the loss",
                source=flow.line(each.index),
            )
