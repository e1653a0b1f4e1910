"""A focal weight the wrong way round."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, Evidence, Flow, describe, operation
from cnnprobe.rulebook.material import classifying, perceptron


def _training(inverted: bool) -> Mapping[str, Any]:
    from torch.nn import functional

    def loss_fn(output: Any, targets: Any) -> Any:
        error = functional.cross_entropy(output, targets, reduction="none")
        sure = (-error).exp()
        return ((sure if inverted else 1 - sure) ** 2 * error).mean()

    return classifying(perceptron(), loss_fn=loss_fn)


def sick() -> Mapping[str, Any]:
    """The weight is p ** 2."""
    return _training(True)


def healthy() -> Mapping[str, Any]:
    """It is (1 - p) ** 2."""
    return _training(False)


@rule(
    code="CP428",
    name="inverted-focal-weight",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("minimum-elsewhere", "loss-not-decreasing", "cannot-overfit"),
)
def inverted_focal_weight(evidence: Evidence) -> Iterator[Finding]:
    """A loss is weighted by a power of the probability of the label itself.

    Why it matters: the samples that are wrong count for nothing, and making one worse lowers the
    loss; a focal loss does the reverse.
    What to do: (1 - p) ** gamma * loss.
    Known exceptions: none.
    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002, equation 4.
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives({"mul"}):
        power = find_power(flow, i)
        if power is not None:
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"the loss is multiplied by a power of the probability of the label, by "
                    f"{describe(flow.calls[power])}: the surer the model is, the more a sample "
                    "counts"
                ),
                fix="(1 - p) ** gamma in place of p ** gamma",
                source=flow.line(power),
                subject=describe(flow.calls[power]),
            )
            return


def find_power(flow: Flow, index: int) -> int | None:
    """The row of p ** gamma, where p is exp(-loss) and is multiplied with this very loss."""
    rows = [flow.origin(info) for info in flow.calls[index].inputs[:2]]
    for power, loss in itertools.permutations(rows, 2):
        if power is None or loss is None or operation(flow.calls[loss]) not in LOSSES:
            continue
        chain = power
        for kind in ("pow", "exp", "neg"):
            if operation(flow.calls[chain]) != kind:
                break
            given = flow.data(chain)
            before = None if given is None else flow.origin(given)
            if before is None:
                break
            chain = before
        else:
            if chain == loss:
                return power
    return None
