"""One and the same loss twice in the sum."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import loss_calls
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(permuted: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        order = targets.argsort()
        output = model(0.7 * inputs + 0.3 * inputs[order])
        optimizer.zero_grad()
        other = targets[order] if permuted else targets
        loss: Any = 0.7 * loss_fn(output, targets) + 0.3 * loss_fn(output, other)
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """Mixed images, and twice the labels of the first."""
    return _loop(False)


def healthy() -> Mapping[str, Any]:
    """Each term has the labels of its own images."""
    return _loop(True)


@rule(code="CP430", name="loss-taken-twice", severity=Severity.WARNING, examples=(sick, healthy))
def loss_taken_twice(evidence: Evidence) -> Iterator[Finding]:
    """Two terms of the loss are the same loss of the same output and the same targets.

    Why it matters: one of them was meant to have others: of mixup the permuted labels, of a second
    head its own output.
    What to do: look at the arguments of the second one.
    Known exceptions: a loss that is computed again to be looked at.
    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.
    """
    if not evidence.steps:
        return
    flow = Flow(evidence.trace)
    ends = [loss.call for loss in evidence.steps[0].losses if loss.call is not None]
    toward = set().union(*(flow.before(i) | {i} for i in ends)) if ends else set()
    seen: dict[object, int] = {}
    for loss in loss_calls(evidence):
        if loss.index not in toward or loss.target is None or loss.target.source is not None:
            continue
        made = flow.producer(loss.prediction)
        # of a row with several outputs, as an unbind, it is not known which one this is
        if made is None or len(flow.calls[made].outputs) != 1 or len(ends) != 1:
            continue
        settings = tuple(sorted((k, str(v)) for k, v in loss.call.arguments.items()))
        key = (loss.call.kind, loss.prediction.source, loss.target.shape, settings)
        if seen.setdefault(key, loss.index) != loss.index and _is_one_target(evidence):
            yield Finding(
                module=None,
                message=(
                    f"the loss is made of {describe(loss.call)} of the same output and targets "
                    "twice"
                ),
                fix="give the second one its own targets, or output: y[permutation] of a mixup",
                source=loss.call.source,
            )
            return


def _is_one_target(evidence: Evidence) -> bool:
    return len(evidence.targets) == 1
