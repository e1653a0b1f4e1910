"""A BatchNorm that never updates its statistics."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import called, modules_of, spoken
from cnnprobe.rulebook.material import classifying, layers


def _net(momentum: float) -> Mapping[str, Any]:
    from torch import nn

    return classifying(
        layers(
            lambda: nn.Conv2d(1, 4, 3, padding=1),
            lambda: nn.BatchNorm2d(4, momentum=momentum),
            nn.ReLU(),
            nn.Flatten(),
            lambda: nn.Linear(256, 4),
        )
    )


def sick() -> Mapping[str, Any]:
    """Momentum 0."""
    return _net(0.0)


def healthy() -> Mapping[str, Any]:
    """Momentum 0.01, as in EfficientNet."""
    return _net(0.01)


@rule(
    code="CP603",
    name="bn-momentum-zero",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("train-eval-gap",),
)
def bn_momentum_zero(evidence: Evidence) -> Iterator[Finding]:
    """A BatchNorm has momentum 0: its running statistics stay at their initial values.

    Why it matters: in train mode it normalises by the batch, in eval mode by mean 0 and variance 1.
    What to do: momentum=0.1, torch's default; what TensorFlow calls momentum 0.99 is 0.01 here.
    Known exceptions: momentum=None, a cumulative average; a BatchNorm in eval mode; one that the
    step itself switches off for a second pass, as SAM does, and that had a momentum before.
    Source: torch.nn.BatchNorm2d, "running = (1 - momentum) * running + momentum * observed".
    """
    for module in modules_of(evidence, "batch_norm"):
        if (
            module.config.get("momentum") == 0
            and module.config.get("track_running_stats")
            and module.training
            and module.fqn in called(evidence)
            and not _had_one(evidence, module.fqn)
        ):
            yield Finding(
                module=module.fqn,
                message=(
                    f"{spoken(evidence, module.fqn)} has momentum 0 (must be more than 0): its "
                    "running statistics never change"
                ),
                fix="momentum=0.1, or None for a cumulative average",
            )


def _had_one(evidence: Evidence, fqn: str) -> bool:
    """Whether it had a momentum before the first step."""
    before = evidence.evaluation
    known = before is not None and any(module.fqn == fqn for module in before.modules)
    return known and before is not None and before.module(fqn).config.get("momentum") != 0
