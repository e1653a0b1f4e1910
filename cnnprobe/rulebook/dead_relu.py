"""A ReLU that gives nothing but zeros."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import RECTIFIERS, Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import spoken, stat, traces
from cnnprobe.rulebook.material import classifying, perceptron

# values: half of them are zero after symmetric initialisation, so that fewer may all be by chance
FEWEST = 16
# fraction of zeros in a ReLU's output; about 0.5 is usual after symmetric initialisation
DEAD = 0.99


def _net(bias: float) -> Mapping[str, Any]:
    import torch

    model = perceptron(hidden=100)
    with torch.no_grad():
        model[1].bias.fill_(bias)
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """A bias of -10."""
    return _net(-10.0)


def healthy() -> Mapping[str, Any]:
    """A bias of -1: some 90% are zero."""
    return _net(-1.0)


@rule(
    code="CP101",
    name="dead-relu",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
    explains=(
        "vanishing-gradient",
        "zero-grad",
        "constant-output",
        "ignored-input",
        "cannot-overfit",
        "loss-not-decreasing",
    ),
)
def dead_relu(evidence: Evidence) -> Iterator[Finding]:
    """A ReLU whose output is all but entirely zero.

    Why it matters: no gradient passes through a zero output, so the layers before it stop learning.
    What to do: lower the learning rate, check the bias initialisation, or use LeakyReLU.
    Known exceptions: a ReLU inside a loss (a hinge) is zero where the loss is; it is not judged.
    Source: Lu et al. 2019, "Dying ReLU and Initialization", arXiv:1903.06733.
    """
    observed = [
        t
        for t in traces(evidence)[:-1] or traces(evidence)
        if any(o.stats for c in t.calls for o in c.outputs)
    ]
    dead = [_dead(Flow(trace)) for trace in observed]
    if not dead:
        return
    flow = Flow(observed[-1])
    for i, share in dead[-1].items():
        before = flow.origin(flow.calls[i].inputs[0]) if flow.calls[i].inputs else None
        first = "" if i in dead[0] else f" after {len(evidence.steps)} steps"
        yield Finding(
            module=flow.owner(i),
            message=(
                f"{share:.1%} of the outputs of {describe(flow.calls[i])} are zero{first} (more "
                f"than {DEAD:.0%})"
            ),
            fix=(
                "check weight and bias of "
                f"{spoken(evidence, flow.owner(i if before is None else before))}, lower the "
                "learning rate, or use LeakyReLU"
            ),
            source=flow.line(i),
        )
        return


def _dead(flow: Flow) -> dict[int, float]:
    """The share of zeros of each dead ReLU; calls of one line on what one layer gives, as on the
    levels of a pyramid, are one ReLU.
    """
    places: dict[object, list[int]] = {}
    for i in flow.primitives(RECTIFIERS):
        if flow.owner(i) is not None and flow.calls[i].outputs:
            before = flow.origin(flow.calls[i].inputs[0]) if flow.calls[i].inputs else None
            weights = (
                tuple(t.source for t in flow.calls[before].inputs if isinstance(t.source, str))
                if before is not None
                else ()
            )
            maker = i if before is None else (flow.owner(before), weights)
            places.setdefault((flow.owner(i), flow.calls[i].source, maker), []).append(i)
    shares: dict[int, float] = {}
    for calls in places.values():
        outputs = [flow.calls[i].outputs[0] for i in calls]
        count = sum(stat(info, "count") for info in outputs)
        if (
            count >= FEWEST
            and (share := sum(stat(info, "zeros") for info in outputs) / count) >= DEAD
        ):
            shares[calls[0]] = share
    return shares
