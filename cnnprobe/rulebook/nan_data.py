"""Data with NaN in it."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import find_nan_data, stat
from cnnprobe.rulebook.material import classifying, images, perceptron


def _with_pixel(value: float) -> Mapping[str, Any]:
    pictures = images()
    pictures[3, 0, 2, 5] = value
    return classifying(perceptron(), inputs=pictures)


def sick() -> Mapping[str, Any]:
    """One pixel is NaN."""
    return _with_pixel(float("nan"))


def healthy() -> Mapping[str, Any]:
    """It is large."""
    return _with_pixel(5.0)


@rule(
    code="CP707",
    name="nan-data",
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
def nan_data(evidence: Evidence) -> Iterator[Finding]:
    """The inputs or the targets hold NaN or Inf.

    Why it matters: NaN spreads to the loss, and by the first step to all weights.
    What to do: clean the data before it reaches the model: torch.isfinite, or torch.nan_to_num
    where 0 is a fair value.
    Known exceptions: Inf beside zeros alone, as in a mask that is added to scores.
    Source: IEEE 754; the first batch that was given.
    """
    found = find_nan_data(evidence)
    if found is not None:
        role, info = found
        yield Finding(
            module=None,
            message=(
                f"the {role} hold {stat(info, 'nan') + stat(info, 'inf'):.0f} NaN or Inf among "
                f"{stat(info, 'count'):.0f} values (must be 0)"
            ),
            fix="clean the data before it reaches the model",
        )
