"""A sigmoid or tanh at the ends of its range."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import FORWARDING, Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls, spoken, stat, traces
from cnnprobe.rulebook.material import classifying, images, layers

SATURATED = 0.9  # fraction of outputs where less than 4% of the gradient passes


def _net(scale: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = layers(nn.Flatten(), lambda: nn.Linear(64, 32), nn.Tanh(), lambda: nn.Linear(32, 4))
    with torch.no_grad():
        model[1].weight.mul_(scale)
    return classifying(model, inputs=3 * images())


def sick() -> Mapping[str, Any]:
    """Weights 100 times too large."""
    return _net(100.0)


def healthy() -> Mapping[str, Any]:
    """Weights 3 times larger than usual."""
    return _net(3.0)


@rule(
    code="CP102",
    name="saturated-activation",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("vanishing-gradient", "zero-grad"),
)
def saturated_activation(evidence: Evidence) -> Iterator[Finding]:
    """A hidden sigmoid or tanh gives almost only the ends of its range.

    Why it matters: its derivative is nearly zero there, so the layers before it learn nothing.
    What to do: initialise the layer before it smaller, normalise its input, or use ReLU.
    Known exceptions: the model's last activation, which may be sure of itself; zeros of a ReLU are
    no saturation.
    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward
    neural networks".
    """
    observed = [t for t in traces(evidence) if any(o.stats for c in t.calls for o in c.outputs)]
    if not observed:
        return
    flow = Flow(observed[0])
    ends = {loss.origin for loss in loss_calls(evidence)} | {
        flow.origin(o, FORWARDING) for r in flow.roots() for o in flow.calls[r].outputs
    }
    for i in flow.primitives({"sigmoid", "tanh", "hardsigmoid", "hardtanh"}):
        call = flow.calls[i]
        if i in ends or flow.owner(i) is None or not call.outputs:
            continue
        share = stat(
            call.outputs[0], "at_tanh_ends" if "tanh" in operation(call) else "at_sigmoid_ends"
        )
        if share >= SATURATED:
            before = flow.origin(call.inputs[0]) if call.inputs else None
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{share:.1%} of the outputs of {describe(call)} are at the ends of its range "
                    f"(more than {SATURATED:.0%})"
                ),
                fix=(
                    "initialise "
                    f"{spoken(evidence, flow.owner(i if before is None else before))} smaller, "
                    "or normalise what goes into it"
                ),
                source=call.source,
            )
