"""A deep stack of sigmoids or tanhs, of which each looks sane."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import FORWARDING, PROJECTIONS, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.projections import weights_in_order
from cnnprobe.diagnosis.evidence.questions import spoken, stat
from cnnprobe.operations import select_groups
from cnnprobe.rulebook.material import classifying, layers

# activations one behind the other; the bound of the name "deep" in Glorot and Bengio 2010, who
# compare nets of one to five hidden layers
DEEP = 5
# gradient over weight of the first layer, relative to the last; five sigmoids at torch's default
# leave 6e-5, five of Xavier's 7e-4, eight tanhs at the default 0.2
FADED = 0.01
SATURATED = 0.95  # share at the ends of the range, from which on a layer alone is to blame
POOLING = select_groups(family="pooling")
SQUASHING = ("sigmoid", "tanh")


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
    """Five sigmoids at the default initialisation."""
    return _net("Sigmoid", 5)


def healthy() -> Mapping[str, Any]:
    """Eight tanhs at the same: a fifth of the gradient is left."""
    return _net("Tanh", 8)


@rule(
    code="CP212",
    name="stacked-sigmoids",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "vanishing-gradient",
        "lr-too-low",
        "loss-not-decreasing",
        "cannot-overfit",
        "constant-output",
    ),
)
def stacked_sigmoids(evidence: Evidence) -> Iterator[Finding]:
    """Five sigmoids or tanhs and more, one behind the other: each is in range, and together they
    leave the first layer less than a hundredth of the last one's gradient.

    Why it matters: the derivative of a sigmoid is at most 0.25, so that each layer takes its part
    of the gradient; the first layers stay at their random initialisation.
    What to do: ReLU in their place, or BatchNorm before each; for tanh, Xavier's initialisation.
    Known exceptions: gates, which multiply; stacks with skip connections, couplings of a flow or
    normalisation, which keep the gradient; a layer that is saturated by itself is
    saturated-activation.
    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward
    neural networks", section 3.
    """
    flow = Flow(evidence.trace)
    stack = [i for i in flow.primitives(SQUASHING) if _is_between(flow, i)]
    steps = [s for s in evidence.steps if s.gradients]
    deep = _count_chain(flow, frozenset(stack))
    if deep < DEEP or not steps or any(_is_saturated(flow, i) for i in stack):
        return
    weights = [w for w in weights_in_order(evidence, steps[0]) if w.relative > 0]
    if len(weights) <= DEEP:
        return
    first, last = weights[0], max(w.relative for w in weights[-2:])
    if first.relative < FADED * last:
        kinds = sorted({operation(flow.calls[i]) for i in stack})
        yield Finding(
            module=first.module,
            message=(
                f"{deep} layers of {' and '.join(kinds)} stand one behind the other: relative "
                f"to its weight, the first of them gets {first.relative / last:.1e} of the last "
                f"layer's gradient (less than {FADED:g})"
            ),
            fix=(
                f"put ReLU in their place from {spoken(evidence, first.module)} on, or BatchNorm "
                "before each"
            ),
            source=flow.line(stack[0]),
        )


def _count_chain(flow: Flow, stack: frozenset[int]) -> int:
    """How many of the rows every gradient passes that goes through the longest chain; calls side
    by side, as of several batches in a step, are none, nor is what a skip connection, or the half
    that a coupling hands on, leads past.
    """
    depths: dict[int, int] = {}
    for i, call in enumerate(flow.calls):
        before = [
            depths.get(info.source, 0)
            for info in call.inputs
            if isinstance(info.source, int) and info.requires_grad
        ]
        depths[i] = min(before, default=0) + (i in stack)
    return max(depths.values(), default=0)


def _is_between(flow: Flow, index: int) -> bool:
    """Whether everything that reads an activation is a layer with weights."""
    following = flow.passes_on(index, FORWARDING | POOLING)
    return bool(following) and all(operation(flow.calls[i]) in PROJECTIONS for i in following)


def _is_saturated(flow: Flow, index: int) -> bool:
    call = flow.calls[index]
    name = "at_tanh_ends" if operation(call) == "tanh" else "at_sigmoid_ends"
    return bool(call.outputs) and stat(call.outputs[0], name) >= SATURATED
