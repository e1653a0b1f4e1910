"""A normalisation that leaves nothing of what it normalises."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation, option
from cnnprobe.records.trace import ModuleCall, Trace
from cnnprobe.rulebook.material import classifying, layers


def _net(groups: int) -> Mapping[str, Any]:
    from torch import nn

    return classifying(
        layers(
            lambda: nn.Conv2d(1, 8, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            lambda: nn.GroupNorm(groups, 8),
            nn.Flatten(),
            lambda: nn.Linear(8, 4),
        )
    )


def sick() -> Mapping[str, Any]:
    """Eight groups of one channel of 1 by 1."""
    return _net(8)


def healthy() -> Mapping[str, Any]:
    """Four groups of two."""
    return _net(4)


@rule(
    code="CP607",
    name="norm-over-one-value",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "constant-output",
        "zero-grad",
        "ignored-input",
        "vanishing-gradient",
        "cannot-overfit",
        "loss-not-decreasing",
    ),
)
def norm_over_one_value(evidence: Evidence) -> Iterator[Finding]:
    """A GroupNorm, InstanceNorm or LayerNorm normalises single values.

    Why it matters: a value less its own mean is 0, whatever it was: only the bias comes out, and no
    gradient goes back.
    What to do: take larger groups or more features, or normalise before the pooling that leaves 1
    by 1.
    Known exceptions: an RMSNorm, which has no mean; inputs that are larger in training than the
    batch that was given.
    Source: Wu and He 2018, "Group Normalization", arXiv:1803.08494, equation 1.
    """
    flow = Flow(evidence.trace)
    seen = set()
    for i in flow.primitives({"group_norm", "instance_norm", "layer_norm"}):
        call = flow.calls[i]
        place = flow.owner(i)
        if place is None or place in seen or _normalised(evidence.trace, call) != 1:
            continue
        seen.add(place)
        yield Finding(
            module=place,
            message=(
                f"{describe(call)} takes the mean of 1 value at a time of {call.inputs[0].shape} "
                "(2 are the least): what comes out does not depend on its input"
            ),
            fix="normalise over more values: fewer groups, or in front of the pooling",
            source=flow.line(i),
        )


def _normalised(trace: Trace, call: ModuleCall) -> int | None:
    """How many values share a mean; None where that is not known."""
    shape = call.inputs[0].shape if call.inputs else ()
    if math.prod(shape) == 0 or call.kind.rpartition(".")[2] in ("RMSNorm", "rms_norm"):
        return None
    if operation(call) == "layer_norm":
        over = option(trace, call, "normalized_shape")
        return math.prod(over) if isinstance(over, tuple | list) else None
    if operation(call) == "group_norm":
        groups = option(trace, call, "num_groups")
        return math.prod(shape[1:]) // groups if isinstance(groups, int) and groups else None
    if (
        len(shape) < 3
        or option(trace, call, "track_running_stats", default=False)
        or option(trace, call, "use_input_stats", default=True) is False
    ):
        return None
    return math.prod(shape[2:])
