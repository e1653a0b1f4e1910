"""The first operation that gives something that is not a number."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import find_nan_data, find_nan_parameter, stat
from cnnprobe.operations import select_groups
from cnnprobe.records.trace import Trace
from cnnprobe.rulebook.material import classifying

MASKING = frozenset(
    {
        "masked_fill",
        "full",
        "full_like",
        "where",
        "triu",
        "tril",
        "fill",
        "new_full",
        "setitem",
        "add",
        "to",
        "expand",
        "unsqueeze",
        "view",
        "getitem",
        "repeat",
        "clone",
        "zero",
        "index_fill",
        "fill_diagonal",
        "masked_scatter",
        "scatter",
        "index_put",
        "index_copy",
        "tensor",
    }
)

UNINITIALISED = select_groups(trait="uninitialised")  # whatever the memory held


def _net(guarded: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 4)

        def forward(self, x: Any) -> Any:
            x = x.flatten(1)
            return self.fc(torch.log(x.relu() + 1e-6 if guarded else x.relu()) / 10)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """The logarithm of zeros."""
    return _net(guarded=False)


def healthy() -> Mapping[str, Any]:
    """A little is added first."""
    return _net(guarded=True)


@rule(
    code="CP104",
    name="nan-forward",
    severity=Severity.ERROR,
    examples=(sick, healthy),
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
def nan_forward(evidence: Evidence) -> Iterator[Finding]:
    """An operation gives NaN or Inf although what goes into it is finite.

    Why it matters: NaN spreads to everything behind it; Inf becomes NaN at the next subtraction or
    division.
    What to do: keep the argument of log, sqrt, exp and divisions away from where they have no
    value.
    Known exceptions: data and parameters that hold NaN themselves are `nan-data` and
    `nan-parameter`; what never reaches the output or the loss: -inf in attention masks, branches
    that torch.where leaves out (but see nan-backward).
    Source: IEEE 754; the first non-finite value in the order of execution.
    """
    if find_nan_data(evidence) is not None or find_nan_parameter(evidence) is not None:
        return
    for trace in (evidence.trace, evidence.evaluation):
        place = _first(trace) if trace is not None else None
        if trace is not None and place is not None:
            flow, call = Flow(trace), trace.calls[place]
            made = call.outputs[0]
            low, high = [stat(call.inputs[0] if call.inputs else None, s) for s in ("min", "max")]
            given = f", given values from {low:.3g} to {high:.3g}" if math.isfinite(low) else ""
            yield Finding(
                module=flow.owner(place),
                message=(
                    f"{describe(call)} is the first to give values that are not finite: "
                    f"{stat(made, 'nan'):.0f} NaN and {stat(made, 'inf'):.0f} Inf of "
                    f"{stat(made, 'count'):.0f}{given}"
                ),
                fix=f"keep its input in the range where it has a value: {_hint(operation(call))}",
                source=call.source,
                subject=describe(call),
            )
            return


def _first(trace: Trace) -> int | None:
    """The row that made the first NaN, or the Inf that it came from, if what is not finite reaches
    the model's output or the loss.
    """
    flow = Flow(trace)
    rows = [
        i
        for i in flow.primitives()
        if flow.calls[i].outputs and operation(flow.calls[i]) not in UNINITIALISED
    ]
    bad = {
        i
        for i in rows
        if any(stat(o, "nan") > 0 or stat(o, "inf") > 0 for o in flow.calls[i].outputs)
    }
    ends = {o.source for r in flow.roots() for o in flow.calls[r].outputs} | {
        i for i in rows if flow.owner(i) is None
    }
    reached = [end for end in ends if isinstance(end, int) and end in bad]
    if not reached:
        return None
    toward = set().union(*(flow.before(end) | {end} for end in reached)) & bad
    nan = next(
        (i for i in rows if i in toward and any(stat(o, "nan") > 0 for o in flow.calls[i].outputs)),
        None,
    )
    before = toward if nan is None else toward & flow.before(nan)
    infinite = [i for i in rows if i in before and operation(flow.calls[i]) not in MASKING]
    return infinite[0] if infinite else nan


def _hint(kind: str) -> str:
    hints = {
        "log": "torch.log(x.clamp(min=1e-8))", "sqrt": "torch.sqrt(x.clamp(min=0) + 1e-8)",
        "div": "x / (y + 1e-8)", "exp": "torch.exp(x.clamp(max=80))",
        "pow": "a base that is not negative", "rsqrt": "torch.rsqrt(x + 1e-8)",
        "softmax": "no row that is masked entirely", "norm": "x.norm() + 1e-8",
    }  # fmt: skip
    return hints.get(kind, "see what goes into it")
