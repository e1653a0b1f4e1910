"""Parameters that a module has and never reads."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, sources_read
from cnnprobe.diagnosis.evidence.questions import (
    called,
    complete,
    owner,
    reached,
    spoken,
    traces,
    trainable,
)
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying


def _net(used: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(64, 4)
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x: Any) -> Any:
            x = self.body(x.flatten(1))
            return x * self.scale if used else x

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """`self.scale` is there and not used."""
    return _net(used=False)


def healthy() -> Mapping[str, Any]:
    """It is used."""
    return _net(used=True)


@rule(code="CP308", name="unused-params", severity=Severity.WARNING, examples=(sick, healthy))
def unused_params(evidence: Evidence) -> Iterator[Finding]:
    """A module that is called has a trainable parameter that nothing reads.

    Why it matters: it gets no gradient, fills the checkpoint, and makes DistributedDataParallel
    stop with an error.
    What to do: use it in the forward, or remove it.
    Known exceptions: parameters of torch's own layers are not judged by reads, but by the graph.
    Source: torch.nn.parallel.DistributedDataParallel, find_unused_parameters.
    """
    arrived = reached(evidence)
    if arrived is None or not arrived or not complete(evidence):
        return
    read = set().union(*(sources_read(trace) for trace in traces(evidence)))
    used = called(evidence)
    for name in trainable(evidence):
        module = owner(name)
        if name in arrived or name in read or module not in used:
            continue
        info = next((m for m in evidence.trace.modules if m.fqn == module), None)
        if info is not None and not info.is_stock and "parametrizations" not in module:
            yield Finding(
                module=module,
                message=(
                    f"{spoken(evidence, module)}.{name.rpartition('.')[2]} is trainable, but "
                    f"nothing reads it: 0 uses in {format_counted(len(evidence.steps), 'step')}"
                ),
                fix="use it in the forward, or remove it",
            )
