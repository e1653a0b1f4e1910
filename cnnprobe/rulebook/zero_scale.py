"""A normalisation that multiplies everything by 0."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import NORMALISING, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, layers

SKIPPING = frozenset({"add", "sub", "cat", "mul"})


def _net(scale: float) -> Mapping[str, Any]:
    from torch import nn

    model = layers(
        lambda: nn.Conv2d(1, 4, 3, padding=1),
        lambda: nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        lambda: nn.Linear(256, 4),
    )
    nn.init.constant_(model[1].weight, scale)
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """The weight of a BatchNorm is 0."""
    return _net(0.0)


def healthy() -> Mapping[str, Any]:
    """It is 0.1."""
    return _net(0.1)


@rule(
    code="CP608",
    name="zero-scale",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "dead-relu",
        "constant-output",
        "zero-grad",
        "ignored-input",
        "dead-channels",
        "vanishing-gradient",
        "vanishing-activation",
        "loss-not-decreasing",
        "cannot-overfit",
    ),
)
def zero_scale(evidence: Evidence) -> Iterator[Finding]:
    """The weight of a normalisation is 0 for every channel, and nothing goes around it.

    Why it matters: every sample leaves it as the bias alone, and no gradient goes through it.
    What to do: initialise the weight with 1 and the bias with 0.
    Known exceptions: the last normalisation of a residual branch may start at 0, as another path is
    added to it (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    Source: torch.nn.BatchNorm2d, "the elements of gamma are set to 1 and beta to 0".
    """
    flow = Flow(evidence.trace)
    found: dict[str, None] = {}
    for i in flow.primitives(NORMALISING):
        weight = evidence.values.get(f"{flow.calls[i].fqn}.weight")
        is_zero = weight is not None and weight.low == weight.high == 0 and not weight.nonfinite
        if is_zero and not _has_bypass(flow, i):
            found.setdefault(flow.calls[i].fqn or "")
    if found:
        count, first = len(found), next(iter(found))
        yield Finding(
            module=first,
            message=(
                f"the weight of {format_counted(count, 'normalisation')} is 0 for every channel "
                f"(the first is {spoken(evidence, first)}): every input leaves "
                f"{'it' if count == 1 else 'them'} as the bias alone"
            ),
            fix=(
                f"nn.init.ones_({spoken(evidence, first)}.weight)"
                + ("" if count == 1 else ", and the others alike")
            ),
            subject=" ".join(found),
        )


def _has_bypass(flow: Flow, index: int) -> bool:
    """Whether something that does not come from the row is joined with what does."""
    behind = flow.after(index) | {index}
    return any(
        operation(flow.calls[i]) in SKIPPING
        and any(
            isinstance(info.source, int) and info.source not in behind
            for info in flow.calls[i].inputs
        )
        for i in behind - {index}
    )
