"""A moving average of the weights that does not follow them."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Average, Evidence
from cnnprobe.rulebook.material import perceptron, stepping

HEAVY = 0.9  # weight of the newest weights in each step; 0.1 is much already
EXACT = 1e-5  # within it a copy, and no average
STEADY = 0.02  # between the steps: a decay that warms up changes faster
WARMING = 1e-4  # or falls by this in every step; a fixed one differs by rounding alone
GROWTH = 1e-4  # of the sum of both weights from 1


def _averaging(decay: float) -> Mapping[str, Any]:
    import torch

    copy, model = perceptron(), perceptron()

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(copy.parameters(), model.parameters(), strict=True):
                average.mul_(decay).add_(parameter, alpha=1 - decay)

    return stepping(model, loop)


def sick() -> Mapping[str, Any]:
    """The decay on the wrong one of both: a copy of the newest weights."""
    return _averaging(0.01)


def healthy() -> Mapping[str, Any]:
    """A decay of 0.99."""
    return _averaging(0.99)


@rule(code="CP531", name="average-astray", severity=Severity.WARNING, examples=(sick, healthy))
def average_astray(evidence: Evidence) -> Iterator[Finding]:
    """A moving average of the weights runs away from them, shrinks, grows, or is only a copy.

    Why it matters: what is evaluated, saved, or used as a teacher or target is not an average of
    the weights.
    What to do: average = decay * average + (1 - decay) * weights, or
    average.lerp_(weights, 1 - decay), with a decay near 1.
    Known exceptions: an exact copy of the weights; a decay that starts low and rises; what changes
    by another rule.
    Source: Tarvainen & Valpola 2017, arXiv:1703.01780, equation 1;
    torch.optim.swa_utils.get_ema_multi_avg_fn.
    """
    for average in evidence.averages:
        fault = find_fault(average)
        if fault is not None:
            said, severity = fault
            yield Finding(
                module=None,
                severity=severity,
                message=f"{average.name}, an average of {average.of}, {said}",
                fix="average.lerp_(weights, 1 - decay), with a decay near 1, as 0.999",
                subject=average.name,
            )


def find_fault(average: Average) -> tuple[str, Severity] | None:
    """What is wrong with an average, and how bad that is; None where it follows."""
    last, total = average.weights[-1], average.sums[-1]
    said: str | None = None
    severity = Severity.ERROR
    if all(weight < 0 for weight in average.weights):
        said = f"moves away from them: each step adds {last:.3g} of the difference (0 to 1 follows)"
    elif all(abs(total - 1) > GROWTH for total in average.sums):
        said = (
            f"{'grows' if total > 1 else 'shrinks'} in each step: its own weight and that of the "
            f"newest weights add up to {total:.4g} (must be 1)"
        )
    elif _is_copy(average):
        severity = Severity.WARNING
        said = (
            f"is all but a copy: the newest weights count {last:.4g} in each step (more than "
            f"{HEAVY}), and its own past {1 - last:.2g}"
        )
    return None if said is None else (said, severity)


def _is_copy(average: Average) -> bool:
    """Whether the newest weights are nearly all of it, and steadily so: not while a decay is warmed
    up, as YOLO's decay * (1 - exp(-updates / 2000)).
    """
    is_heavy = all(HEAVY < weight < 1 - EXACT for weight in average.weights)
    falls = [before - after for before, after in itertools.pairwise(average.weights)]
    is_warming = len(falls) > 1 and min(falls) > WARMING
    return is_heavy and not is_warming and max(average.weights) - min(average.weights) < STEADY
