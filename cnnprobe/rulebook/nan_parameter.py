"""Parameters with NaN in them."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import find_nan_parameter, owner, spoken
from cnnprobe.rulebook.material import classifying, perceptron


def _with_weight(value: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    with torch.no_grad():
        model[1].weight[0, 0] = value
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """One weight is NaN."""
    return _with_weight(float("nan"))


def healthy() -> Mapping[str, Any]:
    """It is large."""
    return _with_weight(1.0)


@rule(
    code="CP106",
    name="nan-parameter",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="nan-forward",
    monitored=True,
    explains=(
        "nan-backward",
        "divergence",
        "loss-not-decreasing",
        "cannot-overfit",
        "constant-output",
        "lr-too-high",
        "loss-at-init",
        "eval-nondeterminism",
    ),
)
def nan_parameter(evidence: Evidence) -> Iterator[Finding]:
    """A parameter or buffer holds NaN or Inf before the first step.

    Why it matters: each output that it goes into is NaN, whatever the inputs are.
    What to do: initialise it (torch.empty does not), or load a checkpoint from before the training
    diverged.
    Known exceptions: Inf without NaN in a buffer or a frozen parameter, as in a mask.
    Source: IEEE 754; torch.empty, "Returns a tensor filled with uninitialized data".
    """
    name = find_nan_parameter(evidence)
    if name is not None:
        yield Finding(
            module=owner(name),
            message=(
                f"{spoken(evidence, owner(name))}.{name.rpartition('.')[2]} holds "
                f"{evidence.values[name].nonfinite} NaN or Inf (must be 0)"
            ),
            fix="initialise it, or load a checkpoint from before it diverged",
        )
