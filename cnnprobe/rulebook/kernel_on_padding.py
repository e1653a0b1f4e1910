"""Kernels that are larger than what they run over."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import NONLINEAR, NORMALISING, Evidence, Flow, describe, operation
from cnnprobe.records.trace import ModuleCall, ModuleInfo
from cnnprobe.rulebook.material import classifying, images

SEEN = 0.5  # share of a kernel's places that ever lie on the map, below which it counts


def _net(size: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(size),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip
    return classifying(model, inputs=images())


def sick() -> Mapping[str, Any]:
    """A kernel of 3 x 3 on a map of 1 x 1."""
    return _net(1)


def healthy() -> Mapping[str, Any]:
    """On a map of 4 x 4."""
    return _net(4)


@rule(
    code="CP320",
    name="kernel-on-padding",
    severity=Severity.INFO,
    examples=(sick, healthy),
)
def kernel_on_padding(evidence: Evidence) -> Iterator[Finding]:
    """More than half of a kernel's places only ever lie on the padding of a map that is smaller.

    Why it matters: these weights never get a gradient; they cost time and memory.
    What to do: pool less or use larger inputs, so that the map is larger; or a smaller kernel.
    Known exceptions: inputs that are smaller than those in use; it is info for that. Behind a
    pooling to 1 x 1 it is a warning: no input is large enough there.
    Source: torch.nn.Conv2d, the formula of the output's size.
    """
    flow = Flow(evidence.trace)
    found: dict[str, tuple[ModuleCall, int, int]] = {}
    pooled: str | None = None  # the first behind a pooling that leaves one position of any input
    for i in flow.primitives(("conv",)):
        call = flow.calls[i]
        live = find_live(evidence.trace.module(call.fqn), call) if call.fqn is not None else None
        if live is None:
            continue
        whole = seen = 1
        for places, size in live:
            whole, seen = whole * size, seen * len(places)
        if seen < SEEN * whole:
            found.setdefault(call.fqn or "", (call, seen, whole))
            if pooled is None and _is_pooled(flow, call):
                pooled = call.fqn
    if found:
        call, seen, whole = found[pooled] if pooled else next(iter(found.values()))
        sizes = " x ".join(map(str, call.inputs[0].shape[2:]))
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield Finding(
            module=call.fqn,
            severity=Severity.WARNING if pooled else None,
            message=(
                f"{whole - seen} of {whole} places of the kernel of {describe(call)} only see "
                f"padding: its map is {sizes}{more}"
            ),
            fix="pool less before it, or give it a kernel of 1",
        )


def _is_pooled(flow: Flow, call: ModuleCall) -> bool:
    """Whether the map is what a pooling over all positions has left."""
    made = flow.origin(call.inputs[0], NONLINEAR | NORMALISING | {"dropout"})
    if made is None:
        return False
    row = flow.calls[made]
    is_pooling = "daptive" in row.kind or operation(row) in ("mean", "amax")
    return is_pooling and all(size == 1 for size in row.outputs[0].shape[2:])


def find_live(info: ModuleInfo, call: ModuleCall) -> list[tuple[range, int]] | None:
    """For each dim of the map, the places of the kernel that ever lie on it, and the kernel's size;
    None where that is not known.
    """
    config = info.config
    given = [config.get(name) for name in ("kernel_size", "stride", "padding", "dilation")]
    tuples = [value for value in given if isinstance(value, tuple)]
    is_zeros = config.get("padding_mode", "zeros") == "zeros"
    if len(tuples) < len(given) or not is_zeros or not call.inputs or not call.outputs:
        return None
    kernels, strides, paddings, dilations = tuples
    before, after = call.inputs[0].shape, call.outputs[0].shape
    found = []
    for d in range(-len(kernels), 0):
        starts = [o * strides[d] - paddings[d] for o in range(after[d])]
        places = [
            k
            for k in range(kernels[d])
            if any(0 <= start + k * dilations[d] < before[d] for start in starts)
        ]
        if not places:
            return None
        found.append((range(places[0], places[-1] + 1), kernels[d]))
    return found
