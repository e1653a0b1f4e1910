"""The indices of a maximum where its values were meant."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, PROJECTIONS, Evidence, Flow, describe, operation
from cnnprobe.rulebook.material import classifying, images

_RANKED = frozenset({"max", "min", "sort", "topk", "max_pool"})


def _gated(part: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            x = self.conv(x).relu()
            largest = x.max(dim=1, keepdim=True)[part].float()
            both = torch.cat([x.mean(1, keepdim=True), largest], dim=1)
            return self.fc((x * self.gate(both).sigmoid()).mean((2, 3)))

    torch.manual_seed(0)
    return classifying(Net(), inputs=images())


def sick() -> Mapping[str, Any]:
    """torch.max(x, dim=1)[1] goes into a convolution."""
    return _gated(1)


def healthy() -> Mapping[str, Any]:
    """torch.max(x, dim=1)[0]."""
    return _gated(0)


@rule(code="CP331", name="indices-as-values", severity=Severity.WARNING, examples=(sick, healthy))
def indices_as_values(evidence: Evidence) -> Iterator[Finding]:
    """The indices that max, min, sort or topk give go into a layer, and nothing reads the values.

    Why it matters: an index says where the largest value is, not how large it is, and no gradient
    goes through it.
    What to do: torch.max(x, dim=1)[0] or .values, or torch.amax(x, dim=1).
    Known exceptions: indices beside which the values are read too; argmax, which gives nothing
    else; indices that select rows of a table.
    Source: torch.max, "Returns a namedtuple (values, indices)".
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives(_RANKED):
        call, readers = flow.calls[i], flow.readers[i]
        if len(call.outputs) != 2 or flow.owner(i) is None or not readers:
            continue
        read = [info for j in readers for info in flow.calls[j].inputs if info.source == i]
        is_index = all(info.dtype == "int64" for info in read)
        casts = [j for j in readers if _makes_numbers(flow, j)]
        layers = sorted(
            k for j in casts for k in flow.after(j) if operation(flow.calls[k]) in PROJECTIONS
        )
        if not is_index or not layers or flow.owner(layers[0]) is None:
            continue
        yield Finding(
            module=flow.owner(i),
            message=(
                f"the indices of {describe(call)} go into {describe(flow.calls[layers[0]])} as "
                "numbers, and nothing reads its values"
            ),
            fix="take the values: [0] in place of [1], or .values",
            source=flow.line(i),
            subject=describe(call),
        )


def _makes_numbers(flow: Flow, index: int) -> bool:
    """Whether a row makes floating-point numbers of whole ones as they are."""
    call = flow.calls[index]
    is_float = bool(call.outputs) and call.outputs[0].dtype.startswith(("float", "bfloat"))
    return is_float and operation(call) in ARRANGING | {"mul", "div", "cat", "add"}
