"""Gradients that fade on their way to the first layers."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.projections import Weight, weights_in_order
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.rulebook.material import classifying, layers

FADED = 1e-6  # gradient over weight of an early layer, relative to that of the last layers
# the same where sigmoids or tanhs lie between: their derivative is at most 0.25; five default
# layers leave 2e-4, six 2e-5
FADED_BY_SQUASHING = 1e-4
SQUASHED = 5  # hidden sigmoids and tanhs that count as a chain of them
# a quarter of the layers are "the first"; all of them have to be faded, as branches that start at
# zero are not the trunk
FIRST = 4
LEAST = 4  # weight layers; fewer cannot fade


def _net(activation: str, depth: int) -> Mapping[str, Any]:
    from torch import nn

    kind = getattr(nn, activation)
    return classifying(
        layers(
            nn.Flatten(),
            *[part for _ in range(depth) for part in ((lambda: nn.Linear(64, 64)), kind())],
            lambda: nn.Linear(64, 4),
        )
    )


def sick() -> Mapping[str, Any]:
    """Sixteen layers of sigmoids."""
    return _net("Sigmoid", 16)


def healthy() -> Mapping[str, Any]:
    """Four."""
    return _net("Sigmoid", 4)


@rule(
    code="CP201",
    name="vanishing-gradient",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
    explains=("lr-too-low", "loss-not-decreasing", "cannot-overfit", "constant-output"),
)
def vanishing_gradient(evidence: Evidence) -> Iterator[Finding]:
    """The gradients of the first layers are a millionth of those of the last, a ten-thousandth
    behind a chain of sigmoids.

    Why it matters: the first layers stay at their random initialisation.
    What to do: ReLU in place of sigmoid, BatchNorm, skip connections, an initialisation by fan-in.
    Known exceptions: residual branches that start near zero (LayerScale); steps in eval mode, where
    untrained BatchNorm does not normalise; small gradients everywhere, as after convergence, are no
    fading; exact zeros are zero-grad.
    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward
    neural networks".
    """
    found: Weight | None = None
    last = 0.0
    flow = Flow(evidence.trace)
    bound = (
        FADED_BY_SQUASHING
        if sum(1 for _ in flow.primitives({"sigmoid", "tanh"})) >= SQUASHED
        else FADED
    )
    for step in [s for s in evidence.steps if s.gradients and s.training][
        :: max(1, len(evidence.steps) - 1)
    ]:
        weights = [w for w in weights_in_order(evidence, step) if w.relative > 0]
        if len(weights) < LEAST:
            return
        last = max(w.relative for w in weights[-2:])
        first = weights[: max(2, len(weights) // FIRST)]
        found = max(first, key=lambda w: w.relative)
        if found.relative >= bound * last:
            return
    if found is not None:
        yield Finding(
            module=found.module,
            message=(
                f"the gradient of {found.name} is {found.relative:.1e} of its weight, that of the "
                f"last layers {last:.1e}: less than {bound:g} of it"
            ),
            fix=(
                f"put BatchNorm or skip connections behind {spoken(evidence, found.module)}, or "
                "use ReLU and an initialisation by fan-in"
            ),
        )
