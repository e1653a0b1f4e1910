"""Gradients that grow on their way to the first layers."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Step
from cnnprobe.diagnosis.evidence.projections import weights_in_order
from cnnprobe.rulebook.material import classifying, layers

# gradient over weight: of an early layer relative to that of the last ones, or absolute
GROWN = 1e4
# they divide by the gradient's own size: its scale does not reach the weights
ADAPTIVE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop")


def _net(gain: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = layers(
        nn.Flatten(),
        *[part for _ in range(8) for part in ((lambda: nn.Linear(64, 64)), nn.ReLU())],
        lambda: nn.Linear(64, 4),
    )
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(gain)
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-4))


def sick() -> Mapping[str, Any]:
    """Eight layers that each enlarge sevenfold."""
    return _net(12.0)


def healthy() -> Mapping[str, Any]:
    """Weights 2 times larger."""
    return _net(2.0)


@rule(
    code="CP202",
    name="exploding-gradient",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
    explains=("divergence", "lr-too-high"),
)
def exploding_gradient(evidence: Evidence) -> Iterator[Finding]:
    """A gradient is ten thousand times its weight, or that many times larger in the first layers
    than in the last.

    Why it matters: a single step throws the weights far away.
    What to do: initialise by fan-in, normalise inputs and targets, clip the gradients.
    Known exceptions: gradients that the loop clips before its step; the scale of a GradScaler,
    which is divided out before the step; under Adam and its like, which divide by it, the size of
    all gradients alike.
    Source: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063; Kingma and Ba 2015, arXiv:1412.6980,
    "the magnitudes of parameter updates are invariant to rescaling of the gradient".
    """
    step = next((s for s in evidence.steps if s.gradients), None)
    if step is None or any(e.kind == "clip" and e.effective for e in step.events):
        return
    scale = _scale(step)
    weights = [
        dataclasses.replace(w, relative=w.relative / scale)
        for w in weights_in_order(evidence, step)
        if w.relative > 0
    ]
    if not weights:
        return
    worst = max(weights, key=lambda w: w.relative)
    last = max(w.relative for w in weights[-2:])
    adapts = bool(evidence.optimizers) and all(o.kind in ADAPTIVE for o in evidence.optimizers)
    is_large = worst.relative > GROWN and not adapts
    if is_large or (worst.relative > GROWN * last and worst.relative > 1.0):
        yield Finding(
            module=worst.module,
            message=(
                f"the gradient of {worst.name} is {worst.relative:.1e} times its weight (more "
                f"than {GROWN:g} times, or than {GROWN:g} times the {last:.1e} of the last layers)"
            ),
            fix=(
                "clip the gradients between backward and step, and initialise by fan-in; "
                "normalise inputs and targets"
            )
            if not any(e.kind == "scale" for e in step.events) or scale > 1
            else (
                "call scaler.step(optimizer), which divides the gradients by the scale of the "
                "loss, not optimizer.step()"
            ),
        )


def _scale(step: Step) -> float:
    """What the gradients after the backward pass are multiplied by, where it is divided out again
    before the step.
    """
    scales = [e.rate for e in step.events if e.kind == "scale" and e.rate]
    return scales[-1] if scales and any(e.kind == "unscale" for e in step.events) else 1.0
