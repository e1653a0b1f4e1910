"""Weights that are all the same number."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import PROJECTIONS, Evidence, operation_of_module
from cnnprobe.evidence.questions import called, owner, spoken, trainable, zero
from cnnprobe.rulebook.material import classifying, perceptron


def _net(constant: bool) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    with torch.no_grad():
        model[1].weight.fill_(0.02) if constant else model[3].weight.zero_()
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """Every weight is 0.02."""
    return _net(constant=True)


def healthy() -> Mapping[str, Any]:
    """A last layer that starts at zero."""
    return _net(constant=False)


@rule(
    code="CP208",
    name="constant-init",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "dead-relu",
        "zero-grad",
        "vanishing-gradient",
        "symmetric-init",
        "cannot-overfit",
        "constant-output",
        "ignored-input",
        "loss-not-decreasing",
        "exploding-activation",
        "loss-at-init",
        "bad-init",
        "saturated-activation",
        "lr-too-low",
    ),
)
def constant_init(evidence: Evidence) -> Iterator[Finding]:
    """All values of a trainable weight matrix are equal.

    Why it matters: all units of the layer compute the same and get the same gradient; they stay one unit for ever.
    What to do: initialise at random, nn.init.kaiming_normal_.
    Known exceptions: zeros that a step can leave (last layers, residual branches, LoRA); fixed filters; a single output.
    Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", section 8.4: the initial parameters need to "break symmetry".
    """
    steps = [s for s in evidence.steps if s.gradients]
    used = called(evidence)
    for name in trainable(evidence):
        value = evidence.values.get(name)
        if (
            value is None
            or len(value.shape) < 2
            or value.shape[0] < 2
            or value.low != value.high
            or owner(name) not in used
            or math.prod(value.shape[1:]) < 2
        ):
            continue
        info = evidence.trace.module(owner(name))
        if operation_of_module(info) not in PROJECTIONS:
            continue
        stuck = len(steps) > 1 and all(zero(s.gradients.get(name)) for s in steps)
        if value.low != 0 or stuck:
            yield Finding(
                module=owner(name),
                message=f"all {math.prod(value.shape)} weights of {spoken(evidence, owner(name))} are {value.low:.4g}"
                + (", and their gradient is 0" if stuck else ""),
                fix=f"nn.init.kaiming_normal_({spoken(evidence, owner(name))}.weight)",
            )
