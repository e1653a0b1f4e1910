"""A BatchNorm that never updates its statistics."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import called, modules_of, spoken
from cnnprobe.rulebook.material import classifying, layers

# mnasnet's 3e-4, which was trained for 10^5 batches, is the least of torchvision's models
SMALL = 2e-4


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
    """A BatchNorm has momentum 0, or nearly: its running statistics stay at their initial values.

    Why it matters: in train mode it normalises by the batch, in eval mode by mean 0 and variance 1.
    What to do: momentum=0.1, torch's default; what TensorFlow calls momentum 0.99 is 0.01 here.
    Known exceptions: momentum=None, a cumulative average; a BatchNorm in eval mode; one that the
    step itself switches off for a second pass, as SAM does, and that had a momentum before; a small
    one (up to 2e-4) that has seen enough batches to settle all the same.
    Source: torch.nn.BatchNorm2d, "running = (1 - momentum) * running + momentum * observed".
    """
    by_momentum: dict[float, list[str]] = {}
    for module in modules_of(evidence, "batch_norm"):
        momentum = module.config.get("momentum")
        if (
            isinstance(momentum, int | float)
            and 0 <= momentum <= SMALL
            and module.config.get("track_running_stats")
            and module.training
            and module.fqn in called(evidence)
            and not _had_one(evidence, module.fqn)
            and not _is_settled(evidence, module.fqn, momentum)
        ):
            by_momentum.setdefault(momentum, []).append(module.fqn)
    for momentum, found in by_momentum.items():
        first, count = spoken(evidence, found[0]), len(found)
        which = first if count == 1 else f"{count} BatchNorm layers (the first is {first})"
        yield Finding(
            module=found[0],
            message=(
                f"{which} {'has' if count == 1 else 'have'} momentum {momentum:g}: the running "
                f"statistics {_say_pace(momentum)}"
            ),
            fix="momentum=0.1, or None for a cumulative average",
        )


def _say_pace(momentum: float) -> str:
    if momentum == 0:
        return "never change (it must be more than 0)"
    return f"go 63% of the way to those of the data in {1 / momentum:,.0f} batches (10 at 0.1)"


def _is_settled(evidence: Evidence, fqn: str, momentum: float) -> bool:
    """Whether it has seen as many batches as the momentum needs for 63% of its way."""
    tracked = evidence.values.get(f"{fqn}.num_batches_tracked")
    return tracked is not None and tracked.high * momentum >= 1


def _had_one(evidence: Evidence, fqn: str) -> bool:
    """Whether it had a momentum before the first step."""
    before = evidence.evaluation
    known = before is not None and any(module.fqn == fqn for module in before.modules)
    if not known or before is None:
        return False
    momentum = before.module(fqn).config.get("momentum")
    return not isinstance(momentum, int | float) or momentum > SMALL
