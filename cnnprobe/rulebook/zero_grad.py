"""Weights whose gradient is exactly zero."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import Evidence, Flow, Step, describe, operation
from cnnprobe.evidence.questions import owner, spoken, stat, topmost, trainable, zero
from cnnprobe.rulebook.material import classifying

STEPWISE = frozenset({"round", "sign", "sgn", "floor", "ceil", "trunc", "fix", "heaviside"})  # constant but for jumps: derivative 0


def _net(shut: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = self.body(x.flatten(1))
            return self.head(torch.sign(x) if shut else torch.tanh(x))

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """A sign, whose derivative is zero everywhere."""
    return _net(shut=True)


def healthy() -> Mapping[str, Any]:
    """A head that starts at zero: the body has no gradient in the first step, and one in the second."""
    import torch

    given = dict(_net(shut=False))
    torch.nn.init.zeros_(given["model"].head.weight)
    return given


@rule(
    code="CP204", name="zero-grad", severity=Severity.WARNING, examples=(sick, healthy), explains=("cannot-overfit", "loss-not-decreasing")
)
def zero_grad(evidence: Evidence) -> Iterator[Finding]:
    """A weight gets a gradient that is exactly zero in every observed step.

    Why it matters: it is connected to the loss and still cannot learn: something on the way has derivative zero.
    What to do: look behind it for dead ReLUs, sign, round, comparisons, a multiplication by zero, a softmax over one value; where no weight has a gradient, look in the loss.
    Known exceptions: heads and branches that start at zero, which let a gradient through after one step.
    Source: the gradients of the observed steps.
    """
    steps = [s for s in evidence.steps if s.gradients]
    if len(steps) < 2:
        return
    names = [p.fqn for p in trainable(evidence).values() if len(p.shape) > 1 and all(zero(s.gradients.get(p.fqn)) for s in steps)]
    alive = [name for name in trainable(evidence) if any(g is not None and g.norm > 0 for s in steps for g in [s.gradients.get(name)])]
    if not alive:
        yield from _flat_loss(steps)
    if not alive or not any(change > 0 for s in evidence.steps for change in s.changes.values()):
        return
    for module in topmost({owner(n) for n in names}, evidence.trace)[:3]:
        yield Finding(
            module=module,
            message=f"the gradient of the weights of {spoken(evidence, module)} is exactly 0 in {len(steps)} of {len(steps)} steps",
            fix="look behind it for an operation with derivative zero: a dead ReLU, sign, round, argmax, a product with 0",
        )


def _flat_loss(steps: list[Step]) -> Iterator[Finding]:
    """A loss that does not depend on the parameters although its graph reaches them."""
    values = [s.value for s in steps]
    gradients = [g for s in steps for g in s.gradients.values()]
    if not all(zero(g) for g in gradients) or any(v is None or v == 0 or not math.isfinite(v) for v in values):
        return
    flow = Flow(steps[0].trace)
    ends = [loss.call for loss in steps[0].losses if loss.call is not None]
    toward = set(ends).union(*(flow.before(i) for i in ends)) if ends else set()
    jumps = [i for i in flow.primitives(STEPWISE | {"clamp"}) if i in toward and _is_flat(flow, i)]
    place = jumps[-1] if jumps else None
    yield Finding(
        module=flow.owner(place),
        severity=Severity.ERROR,
        message=f"the loss is {values[0]:.3g}, and the gradient of every one of {len(steps[0].gradients)} parameters is exactly 0 in {len(steps)} of {len(steps)} steps"
        + (f": the derivative of {describe(flow.calls[place])} is 0" if place is not None else ""),
        fix=f"leave {operation(flow.calls[place])} out of what is trained with; it is for the metrics"
        if place is not None
        else "see what goes into the loss: a tensor that is compared with itself, rounded or clamped, one argument given twice",
        source=flow.line(place),
    )


def _is_flat(flow: Flow, index: int) -> bool:
    """Whether the derivative of a row is 0 for all of its values: a clamp's where it gives but one."""
    made = flow.calls[index].outputs
    return operation(flow.calls[index]) in STEPWISE or (bool(made) and stat(made[0], "std") == 0)
