"""Units that are copies of each other."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, operation_of_module
from cnnprobe.diagnosis.evidence.questions import called, owner, spoken, trainable
from cnnprobe.rulebook.material import classifying, perceptron

MOST = 0.5  # of a layer's units that may be distinct before it is a coincidence


def _net(copies: bool) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    with torch.no_grad():
        row = model[1].weight[:1].clone()
        model[1].weight.copy_(row.expand(32, 64)) if copies else model[1].weight[:8].copy_(
            row.expand(8, 64)
        )
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """All 32 units have the same weights."""
    return _net(copies=True)


def healthy() -> Mapping[str, Any]:
    """Eight of 32 do."""
    return _net(copies=False)


@rule(
    code="CP209",
    name="symmetric-init",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("cannot-overfit", "loss-not-decreasing"),
)
def symmetric_init(evidence: Evidence) -> Iterator[Finding]:
    """The units of a layer start with the same weights as each other.

    Why it matters: equal units get equal gradients and stay equal: the layer has the power of the
    few that are distinct.
    What to do: initialise each unit at random.
    Known exceptions: depthwise convolutions, whose units see different channels; frozen filters.
    Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", section 8.4.
    """
    for name in trainable(evidence):
        value = evidence.values.get(name)
        if (
            value is None
            or value.distinct_rows is None
            or len(value.shape) < 2
            or value.shape[0] < 4
            or value.low == value.high
            or owner(name) not in called(evidence)
        ):
            continue
        info = evidence.trace.module(owner(name))
        groups = info.config.get("groups", 1)
        if (
            operation_of_module(info) in ("linear", "conv")
            and groups == 1
            and value.distinct_rows <= MOST * value.shape[0]
            and value.distinct_rows < value.shape[0] - 2
        ):
            yield Finding(
                module=owner(name),
                message=(
                    f"only {value.distinct_rows} of the {value.shape[0]} units of "
                    f"{spoken(evidence, owner(name))} have weights of their own (at least "
                    f"{MOST:.0%})"
                ),
                fix=f"nn.init.kaiming_normal_({spoken(evidence, owner(name))}.weight)",
            )
