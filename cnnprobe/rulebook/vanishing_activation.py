"""Activations that shrink from layer to layer."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    FORWARDING,
    NORMALISING,
    PROJECTIONS,
    Evidence,
    Flow,
    describe,
    operation,
)
from cnnprobe.diagnosis.evidence.questions import rms
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, layers

SMALL = 1e-4  # root mean square of a layer's output, relative to that of the model's input
LEAST = 2  # layers of weights before it: a single small one is `bad-init`
JOINING = frozenset({"add", "sub", "cat", "mul"})  # beside something that has kept its size


def _net(std: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = layers(
        nn.Flatten(),
        *[part for _ in range(6) for part in ((lambda: nn.Linear(64, 64)), nn.ReLU())],
        lambda: nn.Linear(64, 4),
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            torch.nn.init.normal_(layer.weight, std=std)
            torch.nn.init.zeros_(layer.bias)
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """N(0, 0.01) in each of seven layers: each gives a twentieth of what it gets."""
    return _net(0.01)


def healthy() -> Mapping[str, Any]:
    """N(0, 0.17), which keeps the size."""
    return _net(0.17)


@rule(
    code="CP108",
    name="vanishing-activation",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "vanishing-gradient",
        "constant-output",
        "lr-too-low",
        "loss-not-decreasing",
        "cannot-overfit",
    ),
)
def vanishing_activation(evidence: Evidence) -> Iterator[Finding]:
    """Within a few layers the activations shrink to almost nothing, compared with the input.

    Why it matters: the outputs hardly depend on the input, and the gradient shrinks by the same
    factor on its way back.
    What to do: initialise by fan-in (Kaiming), or put a normalisation between the layers.
    Known exceptions: the last layer, which may start small; layers in front of a normalisation;
    branches that are added to something of the usual size; layers behind a BatchNorm in eval mode,
    whose running statistics may be those of its initialisation.
    Source: He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2: a net of
    30 layers with a standard deviation of 0.01 does not learn.
    """
    flow = Flow(evidence.trace)
    sizes = [rms(info) for info in evidence.inputs if info.dtype.startswith(("float", "bfloat"))]
    given = max([s for s in sizes if math.isfinite(s)], default=1.0)
    idle = {m.fqn for m in evidence.trace.modules if "BatchNorm" in m.kind and not m.training}
    rows = [i for i in flow.primitives(PROJECTIONS) if flow.owner(i) is not None]
    for i in rows[:-1]:
        call = flow.calls[i]
        size = rms(call.outputs[0] if call.outputs else None)
        before = [j for j in rows if j in flow.before(i)]
        if len(before) < LEAST or not 0 < size < SMALL * given:
            continue
        following = flow.passes_on(i, FORWARDING)
        is_normed = any(operation(flow.calls[j]) in NORMALISING for j in following)
        is_idle = any(flow.owner(j) in idle for j in flow.before(i))
        is_joined = any(operation(flow.calls[j]) in JOINING for j in flow.after(i))
        if not is_normed and not is_joined and not is_idle:
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"the output of {describe(call)}, behind "
                    f"{format_counted(len(before), 'layer')} of weights, has "
                    f"a root mean square of {size:.2g}; the model's input has {given:.2g} (more "
                    f"than {1 / SMALL:g} times as much)"
                ),
                fix="initialise the layers up to it by fan-in: nn.init.kaiming_normal_(weight)",
                source=call.source,
            )
            return
