"""Labels of 0 and 1 for a loss that goes by their sign."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import find_given, stat, variable
from cnnprobe.operations import select_groups
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import classifying, labels, layers

SIGNED = select_groups(family="loss", trait="signs")


def _training(low: float) -> Mapping[str, Any]:
    from torch import nn

    targets = (labels() % 2).float()[:, None] * (1 - low) + low
    return classifying(
        layers(nn.Flatten(), lambda: nn.Linear(64, 1)),
        targets=targets,
        loss_fn=nn.SoftMarginLoss(),
    )


def sick() -> Mapping[str, Any]:
    """Labels of 0 and 1."""
    return _training(0.0)


def healthy() -> Mapping[str, Any]:
    """Labels of -1 and 1."""
    return _training(-1.0)


@rule(
    code="CP423",
    name="unsigned-labels",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def unsigned_labels(evidence: Evidence) -> Iterator[Finding]:
    """A loss that tells two classes by the sign of the label gets labels of 0 and 1.

    Why it matters: a sample whose label is 0 has the same loss whatever the model says, so that
    nothing is learned of its class.
    What to do: write the labels as -1 and 1: 2 * labels - 1.
    Known exceptions: none.
    Source: torch.nn.SoftMarginLoss, "containing 1 or -1"; the hinge loss, Cortes & Vapnik 1995.
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives():
        for info in _list_labels(flow, i):
            values = find_given(evidence, flow, info)
            if stat(values, "min") == 0 and stat(values, "max") == 1:
                yield Finding(
                    module=flow.owner(i),
                    message=(
                        f"{describe(flow.calls[i])} goes by the sign of the labels, but they are "
                        "from 0 to 1: a label of 0 has a loss that the output does not change"
                    ),
                    fix=f"write the labels as -1 and 1: 2 * {variable(evidence, 'targets')} - 1",
                    source=flow.line(i),
                )
                return


def _list_labels(flow: Flow, index: int) -> list[TensorInfo]:
    """What a row takes for labels: the last input of a loss by signs, the factor in relu(1 - y *
    f(x)).
    """
    call = flow.calls[index]
    if operation(call) in SIGNED:
        return list(call.inputs[-1:])
    if operation(call) not in ("relu", "clamp") or not call.inputs:
        return []
    rest = flow.producer(call.inputs[0])
    product = flow.producer(flow.data(rest)) if rest is not None else None
    if rest is None or product is None or operation(flow.calls[rest]) not in ("sub", "rsub"):
        return []
    factors = flow.calls[product].inputs
    if operation(flow.calls[product]) != "mul" or not any(f.requires_grad for f in factors):
        return []
    return [factor for factor in factors if not factor.requires_grad]
