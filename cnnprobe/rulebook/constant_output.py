"""The same output for every sample."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow
from cnnprobe.diagnosis.evidence.questions import batch_size, variable
from cnnprobe.rulebook.material import classifying, perceptron

SAME = 1e-6  # greatest difference between samples over the output's magnitude: rounding of float32


def _net(bias: float) -> Mapping[str, Any]:
    import torch

    model = perceptron(hidden=200)
    with torch.no_grad():
        model[1].bias.fill_(bias)
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """All hidden units are dead."""
    return _net(-10.0)


def healthy() -> Mapping[str, Any]:
    """Nearly all are."""
    return _net(-0.8)


@rule(
    code="CP105",
    name="constant-output",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit", "loss-not-decreasing", "ignored-input"),
)
def constant_output(evidence: Evidence) -> Iterator[Finding]:
    """The model gives the same output for all samples of the batch, before and after the observed
    steps.

    Why it matters: it has nothing to tell them apart with.
    What to do: look for dead units, for a softmax over a single class, for a mean over the batch.
    Known exceptions: heads that start at zero, which differ after a step; batches of equal samples.
    Source: eval-mode outputs of one batch.
    """
    probes = evidence.probes
    later = probes.spread_after if len(evidence.steps) > 1 else None
    head = _zero_head(evidence)
    if (
        probes.spread is None
        or probes.spread > SAME
        or (later is not None and later > SAME)
        or (later is None and head)
    ):
        return
    n = batch_size(evidence) or (
        evidence.inputs[0].shape[0] if evidence.inputs and evidence.inputs[0].shape else 0
    )
    yield Finding(
        module="",
        message=(
            f"all {n} samples get the same output: they differ by {probes.spread:.1e} of its size "
            f"(less than {SAME:g})"
        ),
        fix=(
            f"look where {variable(evidence, 'model')} loses its input: "
            f"cnnprobe.probe({variable(evidence, 'model')}, inputs) shows the standard deviation "
            "of every layer"
        ),
    )


def _zero_head(evidence: Evidence) -> bool:
    rows = list(Flow(evidence.trace).primitives(PROJECTIONS))
    last = evidence.trace.calls[rows[-1]].fqn if rows else None
    weight = evidence.values.get(f"{last}.weight")
    return weight is not None and weight.norm == 0
