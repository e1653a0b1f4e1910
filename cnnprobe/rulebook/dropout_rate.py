"""A dropout that keeps next to nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, option
from cnnprobe.rulebook.material import classifying, layers

MOST = 0.8  # fraction dropped; papers use 0.1 to 0.5, at most 0.75
NEXT_TO_ALL = 0.9  # below it a wide layer still learns, and the rate may be meant


def _net(p: float) -> Mapping[str, Any]:
    from torch import nn

    return classifying(
        layers(
            nn.Flatten(),
            lambda: nn.Linear(64, 64),
            nn.ReLU(),
            lambda: nn.Dropout(p),
            lambda: nn.Linear(64, 4),
        )
    )


def sick() -> Mapping[str, Any]:
    """0.9 was meant as what to keep."""
    return _net(0.9)


def healthy() -> Mapping[str, Any]:
    """Seventy percent."""
    return _net(0.7)


@rule(
    code="CP317",
    name="dropout-rate",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit", "loss-not-decreasing", "train-eval-gap"),
)
def dropout_rate(evidence: Evidence) -> Iterator[Finding]:
    """A dropout drops 80% or more.

    Why it matters: torch's p is the probability to drop; elsewhere (TensorFlow 1) it was that to
    keep.
    What to do: use 1 - p if the rate to keep was meant.
    Known exceptions: below 90% it is info: a wide layer learns with it.
    Source: Srivastava et al. 2014, JMLR 15, section 7.3: the best rates to keep are 0.4 to 0.8.
    """
    flow = Flow(evidence.trace)
    seen: set[str | None] = set()
    for i in flow.primitives({"dropout"}):
        rate = option(evidence.trace, flow.calls[i], "p", 0.5)
        if (
            not isinstance(rate, int | float)
            or rate < MOST
            or (flow.calls[i].fqn or flow.line(i)) in seen
        ):
            continue
        seen.add(flow.calls[i].fqn or flow.line(i))
        yield Finding(
            module=flow.owner(i),
            severity=Severity.INFO if rate < NEXT_TO_ALL else Severity.WARNING,
            message=(
                f"{describe(flow.calls[i])} drops {rate:.0%} of the values (at least {MOST:.0%})"
            ),
            fix=f"if {rate:g} is what to keep, write p={1 - rate:.3g}",
            source=flow.line(i),
        )
