"""A forward that writes to its input."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.rulebook.material import classifying, layers


def _net(inplace: bool) -> Mapping[str, Any]:
    from torch import nn

    return classifying(
        layers(lambda: nn.ReLU(inplace=inplace), nn.Flatten(), lambda: nn.Linear(64, 4))
    )


def sick() -> Mapping[str, Any]:
    """An in-place ReLU as the first layer."""
    return _net(inplace=True)


def healthy() -> Mapping[str, Any]:
    """The same out of place."""
    return _net(inplace=False)


@rule(
    code="CP315",
    name="input-mutated",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "divergence",
        "lr-too-high",
        "loss-not-decreasing",
        "ignored-input",
        "constant-output",
    ),
)
def input_mutated(evidence: Evidence) -> Iterator[Finding]:
    """The forward changes the tensor that it is given.

    Why it matters: the caller's batch is another one afterwards: a second pass, a metric or an
    augmentation sees what the first has left.
    What to do: work on a new tensor: x = x - mean instead of x -= mean.
    Known exceptions: none.
    Source: torch.Tensor._version of the input before and after.
    """
    trace = evidence.evaluation
    for path, row in evidence.probes.mutated:
        flow = Flow(trace) if trace is not None else None
        call = trace.calls[row] if trace is not None and row is not None else None
        place = flow.owner(row) if flow is not None and row is not None else ""
        yield Finding(
            module=place,
            message=f"the forward writes to its input {path or 'tensor'}"
            + (f": {describe(call)} does, in place" if call is not None else ""),
            fix=f"use the out-of-place form in {spoken(evidence, place)}, or x = x.clone() first",
            source=call.source if call is not None else "",
            subject=describe(call) if call is not None else "",
        )
