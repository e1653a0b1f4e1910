"""A BatchNorm with the constants of another framework."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import called, modules_of, spoken
from cnnprobe.records.trace import ModuleInfo
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, layers

# momentum: the least of what other frameworks use for the share that stays (Keras 0.99, TensorFlow
# 0.997, Caffe 0.999)
HIGH = 0.9
LARGE = 0.1  # eps: 100 times the largest that is in use, 1e-3; a variance is about 1


def _net(*constants: Any, **named: Any) -> Mapping[str, Any]:
    from torch import nn

    end = (nn.ReLU(), nn.Flatten(), lambda: nn.Linear(256, 4))
    return classifying(
        layers(
            lambda: nn.Conv2d(1, 4, 3, padding=1),
            lambda: nn.BatchNorm2d(4, *constants, **named),
            *end,
        )
    )


def sick() -> Mapping[str, Any]:
    """Keras' momentum."""
    return _net(momentum=0.99)


def healthy() -> Mapping[str, Any]:
    """The same in torch's meaning, with Keras' eps."""
    return _net(1e-3, 0.01)


@rule(
    code="CP606",
    name="bn-mixed-up",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("train-eval-gap",),
)
def bn_mixed_up(evidence: Evidence) -> Iterator[Finding]:
    """A BatchNorm has the momentum of another framework, or a momentum in the place of eps.

    Why it matters: torch's momentum is the share of the new batch, so that with 0.99 the running
    statistics are those of the last batch; a large eps shrinks what it normalises.
    What to do: momentum=0.01 for what Keras calls 0.99; name the argument, as the second of
    BatchNorm2d is eps.
    Known exceptions: momentum=1, which asks for the statistics of one batch; a BatchNorm in eval
    mode.
    Source: torch.nn.BatchNorm2d, "running = (1 - momentum) * running + momentum * observed", "this
    momentum argument is different from one used in optimizer classes".
    """
    used = called(evidence)
    layers_called = [m for m in modules_of(evidence, "batch_norm") if m.fqn in used]
    large = [m for m in layers_called if _number(m, "eps") >= LARGE]
    high = [
        m
        for m in layers_called
        if HIGH <= _number(m, "momentum") < 1 and m.training and m.config.get("track_running_stats")
    ]
    if large:
        eps = _number(large[0], "eps")
        yield Finding(
            module=large[0].fqn,
            message=(
                f"{format_counted(len(large), 'BatchNorm layer')} (the first is "
                f"{spoken(evidence, large[0].fqn)}) {'has' if len(large) == 1 else 'have'} "
                f"eps {eps:g} (at least {LARGE:g}, beside a variance of about 1)"
            ),
            fix=(
                f"momentum={1 - eps:.3g} was probably meant: eps is the second argument"
                if eps < 1
                else "give BatchNorm the number of channels alone: the second argument is eps"
            ),
        )
    if high:
        momentum = _number(high[0], "momentum")
        yield Finding(
            module=high[0].fqn,
            message=(
                f"{format_counted(len(high), 'BatchNorm layer')} (the first is "
                f"{spoken(evidence, high[0].fqn)}) {'has' if len(high) == 1 else 'have'} "
                f"momentum {momentum:g} (at least {HIGH:g}): {momentum:.1%} of the running "
                "statistics come from the last batch"
            ),
            fix=f"momentum={1 - momentum:.3g}: here it is the share of the new batch",
        )


def _number(module: ModuleInfo, name: str) -> float:
    value = module.config.get(name)
    return float(value) if isinstance(value, float | int) else 0.0
