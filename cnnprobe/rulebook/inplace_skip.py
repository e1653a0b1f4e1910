"""A skip connection that an in-place operation overwrites."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying


def _net(inplace: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.conv = nn.ReLU(inplace=inplace), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Any) -> Any:
            return x + self.conv(self.relu(x))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Block(), nn.Flatten(), nn.Linear(256, 4))
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """The block's first in-place ReLU writes to what is added in the end."""
    return _net(inplace=True)


def healthy() -> Mapping[str, Any]:
    """The same out of place."""
    return _net(inplace=False)


@rule(code="CP314", name="inplace-skip", severity=Severity.WARNING, examples=(sick, healthy))
def inplace_skip(evidence: Evidence) -> Iterator[Finding]:
    """An in-place operation overwrites a tensor that is still needed as it was.

    Why it matters: `identity = x` is a second name, no copy: after relu_(x) the skip connection
    carries the rectified values.
    What to do: inplace=False there, or x.clone() for the skip.
    Known exceptions: in-place operations whose old values nobody reads; the forward was run again
    without this one, and gave something else.
    Source: He et al. 2016, arXiv:1603.05027, on keeping the skip path an identity.
    """
    trace = evidence.evaluation
    if trace is None:
        return
    flow = Flow(trace)
    for i in evidence.probes.overwritten:
        call = trace.calls[i]
        readers = [describe(trace.calls[r]) for r in flow.readers.get(i, ())]
        yield Finding(
            module=flow.owner(i),
            message=(
                f"{describe(call)} writes in place to a tensor that "
                f"{format_counted(len(readers), 'later call')} "
                f"{'reads' if len(readers) == 1 else 'read'} ({', '.join(readers[:3])}); without "
                "it the model gives something else"
            ),
            fix=(
                f"set inplace=False in {spoken(evidence, flow.owner(i))}, or keep a copy for the "
                "skip: identity = x.clone()"
            ),
            source=call.source,
            subject=describe(call),
        )
