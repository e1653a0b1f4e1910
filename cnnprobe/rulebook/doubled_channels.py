"""A tensor that is concatenated with itself, or added to itself."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    FORWARDING,
    NONLINEAR,
    NORMALISING,
    PROJECTIONS,
    Evidence,
    Flow,
    describe,
    operation,
    option,
)
from cnnprobe.diagnosis.evidence.questions import spoken, stat
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying


def _net(doubled: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.out, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            skip = self.down(x).relu()
            x = self.deep(skip).relu()
            x = self.out(torch.cat([x, x if doubled else skip], dim=1))
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """cat([x, x]) in the place of cat([x, skip])."""
    return _net(doubled=True)


def healthy() -> Mapping[str, Any]:
    """cat([x, skip])."""
    return _net(doubled=False)


@rule(code="CP321", name="doubled-channels", severity=Severity.WARNING, examples=(sick, healthy))
def doubled_channels(evidence: Evidence) -> Iterator[Finding]:
    """A tensor is concatenated with itself along its channels, and a layer of weights reads both;
    or it is added to itself where a block ends.

    Why it matters: the second copy tells the layer nothing; what was meant to stand there, often a
    skip connection, is missing. Two tensors of equal values count as one.
    What to do: give cat, or the sum, the other tensor.
    Known exceptions: the model's own input, repeated for weights of three channels; the batch, dim
    0; parts of one tensor; a sum of what no layer of the model has made.
    Source: Ronneberger et al. 2015, "U-Net", arXiv:1505.04597, section 2: the upsampled map is
    concatenated with that of the contracting path.
    """
    flow = Flow(evidence.trace)
    yield from _find_sums(evidence, flow)
    for i in flow.primitives(("cat",)):
        call = flow.calls[i]
        rank = len(call.inputs[0].shape) if call.inputs else 0
        dim = option(evidence.trace, call, "dim", 0)
        times = Counter(_list_sources(flow, call))
        source, count = next(iter(times.most_common(1)), (None, 0))
        if count < 2 or rank < 2 or not isinstance(dim, int) or dim % rank == 0:
            continue
        readers = flow.passes_on(i, FORWARDING)
        if not readers or not all(operation(flow.calls[r]) in PROJECTIONS for r in readers):
            continue
        if source is not None and flow.owner(source) is not None and flow.before(source):
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{describe(call)} joins {count} times what {describe(flow.calls[source])} "
                    f"gives: {describe(flow.calls[readers[0]])} reads the same channels twice"
                ),
                fix=f"give cat the other tensor, in {spoken(evidence, flow.owner(i))}",
                source=call.source,
            )


def _list_sources(flow: Flow, call: ModuleCall) -> Iterator[int]:
    """The row that made each input of a call; of rows that have made the same, the first."""
    seen: dict[object, int] = {}
    for info in call.inputs:
        if isinstance(info.source, int) and len(flow.calls[info.source].outputs) == 1:
            made = flow.calls[info.source].outputs[0]
            is_told = stat(made, "std") > 0
            values = (made.shape, tuple((made.stats or {}).items())) if is_told else info.source
            yield seen.setdefault(values, info.source)


def _find_sums(evidence: Evidence, flow: Flow) -> Iterator[Finding]:
    """The sums, within the model, of a layer's output with itself."""
    for i in flow.primitives(("add",)):
        call = flow.calls[i]
        sources = [t.source for t in call.inputs]
        source = sources[0] if sources else None
        if len(sources) != 2 or sources[0] != sources[1] or not isinstance(source, int):
            continue
        made = flow.calls[source]
        if len(made.outputs) != 1 or flow.owner(i) is None or not made.outputs[0].requires_grad:
            continue
        if operation(made) in PROJECTIONS | NORMALISING | NONLINEAR:
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{describe(call)} adds what {describe(made)} gives to itself: it is 2 times "
                    "the same, and no skip"
                ),
                fix=f"add the input of the block, in {spoken(evidence, flow.owner(i))}",
                source=call.source,
                kind="sum",
            )
