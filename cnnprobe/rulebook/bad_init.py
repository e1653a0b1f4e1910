"""Weights of the wrong size for their fan-in."""

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
    operation,
)
from cnnprobe.diagnosis.evidence.questions import input_stats, rms, spoken
from cnnprobe.rulebook.material import classifying, perceptron

# std times sqrt(fan_in); 0.6 is torch's default, 1.4 Kaiming's, up to 7 fan-out modes of squeezing
# layers
LARGE = 10.0
SMALL = 0.01  # the same; a truncated normal of 0.02 has 0.2


def _net(std: float) -> Mapping[str, Any]:
    import torch

    model = perceptron(hidden=64)
    torch.nn.init.normal_(model[1].weight, std=std)
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-4))


def sick() -> Mapping[str, Any]:
    """N(0, 2) for 64 inputs."""
    return _net(2.0)


def healthy() -> Mapping[str, Any]:
    """N(0, 0.5)."""
    return _net(0.5)


@rule(
    code="CP207",
    name="bad-init",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "exploding-activation",
        "exploding-gradient",
        "vanishing-gradient",
        "saturated-activation",
        "loss-at-init",
        "divergence",
        "dead-relu",
        "lr-too-high",
        "lr-too-low",
        "constant-output",
    ),
)
def bad_init(evidence: Evidence) -> Iterator[Finding]:
    """A layer enlarges or shrinks its input far more than any common initialisation does.

    Why it matters: over a few layers activations and gradients explode or vanish.
    What to do: nn.init.kaiming_normal_(weight) or torch's default.
    Known exceptions: layers in front of a normalisation, whose scale does not matter; weights that
    start at exactly zero; a last layer may be small, as that of a policy, of several heads each;
    one that has learnt before.
    Source: He et al. 2015, arXiv:1502.01852; Glorot and Bengio 2010.
    """
    flow = Flow(evidence.trace)
    rows = [i for i in flow.primitives(PROJECTIONS) if flow.calls[i].fqn is not None]
    made = [i for i in reversed(rows) if flow.calls[i].fqn not in evidence.learnt]
    calls = {flow.calls[i].fqn: i for i in made}  # the first call of each layer
    for i in sorted(calls.values()):
        fqn = flow.calls[i].fqn
        weight = evidence.values.get(f"{fqn}.weight")
        if weight is None or len(weight.shape) < 2 or weight.norm == 0 or weight.std == 0:
            continue
        fan = (
            math.prod(weight.shape[1:])
            if operation(flow.calls[i]) != "conv_transpose"
            else weight.shape[0] * math.prod(weight.shape[2:])
        )
        gain = math.hypot(weight.std, weight.mean) * math.sqrt(fan)
        following = flow.passes_on(i, FORWARDING)
        normed = bool(following) and all(operation(flow.calls[j]) in NORMALISING for j in following)
        before, after = (
            rms(input_stats(flow, flow.calls[i].inputs[0])),
            rms(flow.calls[i].outputs[0] if flow.calls[i].outputs else None),
        )
        if i == rows[0] and not math.isfinite(before):
            before = max(
                (rms(info) for info in evidence.inputs if math.isfinite(rms(info))),
                default=math.nan,
            )
        large = gain > LARGE and after > LARGE * before
        small = gain < SMALL and after < SMALL * 10 * before and bool(flow.after(i) & {*rows})
        if not normed and (large or small):
            yield Finding(
                module=fqn,
                message=(
                    f"the weight of {spoken(evidence, fqn)} has a standard deviation of "
                    f"{weight.std:.2g} for {fan} inputs: a gain of {gain:.2g} "
                    f"({f'more than {LARGE:g}' if large else f'less than {SMALL:g}'}; Kaiming's is "
                    "1.4)"
                ),
                fix=f"nn.init.kaiming_normal_({spoken(evidence, fqn)}.weight)",
            )
