"""Weights whose gradient is exactly zero."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import Evidence
from cnnprobe.evidence.questions import owner, spoken, topmost, trainable, zero
from cnnprobe.rulebook.material import classifying


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
    What to do: look behind it for dead ReLUs, sign, round, comparisons, a multiplication by zero, a softmax over one value.
    Known exceptions: heads and branches that start at zero, which let a gradient through after one step.
    Source: the gradients of the observed steps.
    """
    steps = [s for s in evidence.steps if s.gradients]
    if len(steps) < 2 or not any(change > 0 for s in evidence.steps for change in s.changes.values()):
        return
    names = [p.fqn for p in trainable(evidence).values() if len(p.shape) > 1 and all(zero(s.gradients.get(p.fqn)) for s in steps)]
    alive = [name for name in trainable(evidence) if any(g is not None and g.norm > 0 for s in steps for g in [s.gradients.get(name)])]
    if not alive and any(s.value == 0 for s in steps):
        return
    for module in topmost({owner(n) for n in names}, evidence.trace)[:3]:
        yield Finding(
            module=module,
            message=f"the gradient of the weights of {spoken(evidence, module)} is exactly 0 in {len(steps)} of {len(steps)} steps",
            fix="look behind it for an operation with derivative zero: a dead ReLU, sign, round, argmax, a product with 0",
        )
