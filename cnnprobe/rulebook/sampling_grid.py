"""A grid of grid_sample in other units or in another order."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import input_stats, stat
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import classifying, images

_OUTSIDE = 1.0  # a mean beyond the edge: most places are read outside of the map
_EDGE = 0.05  # of the range from 0 to 1
_HANDING = frozenset({"add", "sub", "mul", "div", "neg"})


def _warped(pixels: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn
    from torch.nn import functional

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.fc = nn.Linear(64, 2), nn.Linear(64, 4)

        def forward(self, x: Any) -> Any:
            side = torch.arange(8.0) if pixels else torch.linspace(-1, 1, 8)
            rows, columns = torch.meshgrid(side, side, indexing="ij")
            grid = torch.stack([columns, rows], dim=-1)
            shift = self.shift(x.flatten(1))[:, None, None]
            moved = functional.grid_sample(x, grid + 0.1 * shift, align_corners=True)
            return self.fc(moved.flatten(1))

    torch.manual_seed(0)
    return classifying(Net(), inputs=images())


def sick() -> Mapping[str, Any]:
    """Pixels from 0 to 7."""
    return _warped(pixels=True)


def healthy() -> Mapping[str, Any]:
    """From -1 to 1."""
    return _warped(pixels=False)


@rule(code="CP333", name="sampling-grid", severity=Severity.WARNING, examples=(sick, healthy))
def sampling_grid(evidence: Evidence) -> Iterator[Finding]:
    """The grid of a grid_sample counts pixels, goes from 0 to 1, or has y before x.

    Why it matters: the map lies between -1 and 1 and the first coordinate goes along the width;
    what lies outside is read as 0, and from 0 to 1 there is a quarter of the map.
    What to do: 2 * x / (width - 1) - 1 with align_corners=True, and torch.stack([x, y], dim=-1).
    Known exceptions: grids that leave the map at some places, as a flow does at its edges.
    Source: torch.nn.functional.grid_sample, "grid specifies the sampling pixel locations normalized
    by the input spatial dimensions", "x = -1, y = -1 is the left-top pixel".
    """
    flow = Flow(evidence.trace)
    told: set[str] = set()
    for i in flow.primitives({"grid_sample"}):
        call = flow.calls[i]
        if len(call.inputs) < 2 or flow.line(i) in told:
            continue
        found = _judge_range(flow, call.inputs[1]) or _judge_order(flow, call.inputs[1])
        if found is not None:
            told.add(flow.line(i))
            message, fix = found
            yield Finding(
                module=flow.owner(i),
                message=f"the grid of {describe(call)} {message}",
                fix=fix,
                source=flow.line(i),
            )


def _judge_range(flow: Flow, grid: TensorInfo) -> tuple[str, str] | None:
    known = input_stats(flow, grid)
    low, high, mean = (stat(known, name) for name in ("min", "max", "mean"))
    if math.isnan(mean):
        return None
    said = f"goes from {low:.3g} to {high:.3g}"
    if abs(mean) > _OUTSIDE:
        beyond = "the map lies between -1 and 1, so most of it is read from outside"
        fix = "2 * x / (width - 1) - 1, and the same with y and the height"
        return f"{said}, with a mean of {mean:.3g}: {beyond}", fix
    is_quarter = low >= -_EDGE and 1 - _EDGE <= high <= 1 + _EDGE and abs(mean - 0.5) < _EDGE
    if is_quarter:
        return f"{said}: that is the lower right quarter of the map", "2 * grid - 1"
    return None


def _judge_order(flow: Flow, grid: TensorInfo) -> tuple[str, str] | None:
    """Whether the coordinates that change along the rows come first."""
    end = flow.producer(grid)
    rows = sorted(flow.before(end) | {end}) if end is not None else []
    stacks = [i for i in rows if operation(flow.calls[i]) == "stack"]
    turned = any(operation(flow.calls[i]) in ("flip", "roll", "affine_grid") for i in rows)
    if len(stacks) != 1 or turned or len(flow.calls[stacks[0]].inputs) != 2:
        return None
    sides = [_find_side(flow, info) for info in flow.calls[stacks[0]].inputs]
    if sides != ["rows", "columns"]:
        return None
    said = "has the coordinate that grows from row to row first, where x is expected"
    return said, "torch.stack([x, y], dim=-1) in place of [y, x]"


def _find_side(flow: Flow, info: TensorInfo) -> str | None:
    """Along what a coordinate from meshgrid grows: "rows", "columns", or None: not known."""
    while (made := flow.producer(info)) is not None:
        call = flow.calls[made]
        if operation(call) == "meshgrid":
            strides = info.strides or ()
            if len(strides) != 2 or all(strides) or not any(strides):
                return None
            return "rows" if strides[0] else "columns"
        if operation(call) not in _HANDING or not call.inputs:
            return None
        info = call.inputs[0]
    return None
