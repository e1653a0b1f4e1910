"""Updates as large as the weights themselves."""

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import NORMALISING, PROJECTIONS, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import owner, spoken
from cnnprobe.rulebook.material import classifying, perceptron

LARGE = 1.0  # update norm over weight norm in the first step; about 1e-3 is usual
SMALL = 1e-3  # rms of a weight below which it starts at (nearly) zero, on purpose


def _training(rate: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    groups = [{"params": model[1].parameters()}, {"params": model[3].parameters(), "lr": rate}]
    return classifying(model, optimizer=torch.optim.SGD(groups, lr=0.5))


def sick() -> Mapping[str, Any]:
    """A learning rate of 10 for the last layer."""
    return _training(10.0)


def healthy() -> Mapping[str, Any]:
    """One of 0.01."""
    return _training(0.01)


@rule(
    code="CP206",
    name="update-ratio",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
    explains=("divergence", "dead-relu"),
)
def update_ratio(evidence: Evidence) -> Iterator[Finding]:
    """The first step changes a weight by as much as it is large.

    Why it matters: what the layer was (trained or initialised) is gone after one step.
    What to do: a smaller learning rate for this layer's group.
    Known exceptions: weights that start at zero; layers in front of a normalisation, and weights
    that are normalised themselves, whose scale does not matter; an optimizer that looks for the
    length of its step, as LBFGS with line_search_fn; where the loss never rises it is info.
    Source: Karpathy, CS231n, "Ratio of weights:updates": somewhere around 1e-3.
    """
    if not evidence.steps or any(optimizer.searches for optimizer in evidence.optimizers):
        return
    ratios = _measure_first_step(evidence)
    if not ratios:
        return
    worst = max(ratios, key=lambda n: ratios[n])
    if ratios[worst] > LARGE:
        losses = [step.value for step in evidence.steps if step.value is not None]
        harmless = len(losses) > 1 and all(value <= losses[0] for value in losses)
        yield Finding(
            module=owner(worst),
            severity=Severity.INFO if harmless else None,
            message=(
                f"the first step changes {worst} by {ratios[worst]:.2g} times its size (more than "
                f"{LARGE:g}; the median of all weights is "
                f"{statistics.median(ratios.values()):.1e})"
            ),
            fix=(
                f"lower the learning rate of {spoken(evidence, owner(worst))}'s group in "
                f"{evidence.optimizers[0].name if evidence.optimizers else 'the optimizer'}"
            ),
        )


def _measure_first_step(evidence: Evidence) -> dict[str, float]:
    """The change of each weight in the first step by its size, where its scale matters."""
    flow = Flow(evidence.trace)
    normed = {
        flow.calls[i].fqn
        for i in flow.primitives(PROJECTIONS)
        if (after := flow.passes_on(i))
        and all(operation(flow.calls[j]) in NORMALISING for j in after)
    }
    normed_weights = {
        info.source
        for call in evidence.trace.calls
        if call.fqn is None and operation(call) in NORMALISING
        for info in call.inputs[:1]
    }
    return {
        name: change / value.norm
        for name, change in evidence.steps[0].changes.items()
        if owner(name) not in normed
        and name not in normed_weights
        and (value := evidence.values.get(name)) is not None
        and len(value.shape) > 1
        and value.norm > SMALL * math.sqrt(math.prod(value.shape))
        and math.isfinite(change)
    }
