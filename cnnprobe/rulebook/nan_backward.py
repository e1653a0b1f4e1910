"""The first operation whose derivative is not a number."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, Step, describe
from cnnprobe.diagnosis.evidence.questions import owner
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, images


def _net(guarded: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 32, bias=False), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = self.body(x.flatten(1)) ** 2
            return self.head(torch.sqrt(x + 1e-6 if guarded else x))

    torch.manual_seed(0)
    inputs = images()
    inputs[0] = 0.0
    return classifying(Net(), inputs=inputs)


def sick() -> Mapping[str, Any]:
    """The square root of zeros, of an empty image: its value is fine, its derivative is
    infinite.
    """
    return _net(guarded=False)


def healthy() -> Mapping[str, Any]:
    """A little is added first."""
    return _net(guarded=True)


@rule(
    code="CP203",
    name="nan-backward",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    monitored=True,
    explains=("divergence", "loss-not-decreasing", "cannot-overfit", "constant-output"),
)
def nan_backward(evidence: Evidence) -> Iterator[Finding]:
    """The loss is finite, but a gradient is NaN or Inf.

    Why it matters: after the next step the weights are NaN.
    What to do: keep sqrt, norm, log and divisions away from 0, also in branches that torch.where
    does not take.
    Known exceptions: the scale of a GradScaler overflows now and then, which skips the step; it is
    reported where it does so in every step.
    Source: anomaly mode looks for NaN alone and blames the first node that has one; here Inf counts
    too, in the order of the backward pass.
    """
    for step in evidence.steps:
        bad = [name for name, g in step.gradients.items() if g.nonfinite]
        if (
            step.value is None
            or not math.isfinite(step.value)
            or not bad
            or _overflowed(evidence, step)
        ):
            continue
        trace = (
            evidence.steps[min(evidence.backward.step, len(evidence.steps) - 1)].trace
            if evidence.backward is not None
            else step.trace
        )
        row = evidence.backward.call if evidence.backward is not None else None
        row = row if row is not None and row < len(trace.calls) else None
        what = (
            f"; {describe(trace.calls[row])} is the first whose derivative is not"
            if row is not None
            else ""
        )
        yield Finding(
            module=Flow(trace).owner(row) if row is not None else owner(bad[0]),
            message=(
                f"the loss is {step.value:.3g}, but the gradients of "
                f"{format_counted(len(bad), 'parameter')} are not finite (the first is "
                f"{bad[0]}){what}"
            ),
            fix=(
                "add a small number where it touches 0: torch.sqrt(x + 1e-8), x / (y + 1e-8), "
                "also inside torch.where"
            ),
            source=trace.calls[row].source if row is not None else "",
            subject=describe(trace.calls[row]) if row is not None else "",
        )
        return


def _overflowed(evidence: Evidence, step: Step) -> bool:
    """Whether a GradScaler, which unscales before its step, was only looking for the largest scale:
    with a smaller one the gradients are finite.
    """
    if not {"scale", "unscale"} <= {e.kind for e in step.events}:
        return False
    return any(
        s.gradients and not any(g.nonfinite for g in s.gradients.values()) for s in evidence.steps
    )
