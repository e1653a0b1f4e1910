"""Weights that are all the same number."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, operation_of_module
from cnnprobe.diagnosis.evidence.questions import called, owner, spoken, trainable, zero
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

    Why it matters: all units of the layer compute the same and get the same gradient; they stay one
    unit for ever.
    What to do: initialise at random, nn.init.kaiming_normal_.
    Known exceptions: zeros that a step can leave (last layers, residual branches, LoRA), as long as
    they do not cut the only path from input to output before the last layer; fixed filters; a
    single output.
    Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", section 8.4: the initial parameters
    need to "break symmetry".
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
        cuts = value.low == 0 and not stuck and _cuts(Flow(evidence.trace), owner(name))
        if value.low != 0 or stuck or cuts:
            yield Finding(
                module=owner(name),
                message=(
                    f"all {math.prod(value.shape)} weights of {spoken(evidence, owner(name))} are "
                    f"{value.low:.4g}"
                )
                + (
                    ", and their gradient is 0"
                    if stuck
                    else ", and nothing passes beside it: the layers behind see no input"
                    if cuts
                    else ""
                ),
                fix=f"nn.init.kaiming_normal_({spoken(evidence, owner(name))}.weight)",
            )


def _cuts(flow: Flow, module: str) -> bool:
    """Whether every path from the input to the output goes through this layer, and a further
    projection comes behind it.
    """
    rows = {i for i in flow.primitives() if flow.calls[i].fqn == module}
    if not rows or not any(
        j in flow.after(i) for i in rows for j in flow.primitives(PROJECTIONS) if j not in rows
    ):
        return False
    stack = [info.source for root in flow.roots() for info in flow.calls[root].outputs]
    seen: set[object] = set()
    while stack:
        index = stack.pop()
        if not isinstance(index, int) or index in seen or index in rows:
            continue
        seen.add(index)
        inputs = flow.calls[index].inputs
        if any(info.source is None for info in inputs):
            return False  # something from outside gets past it
        stack.extend(info.source for info in inputs)
    return bool(flow.roots())
