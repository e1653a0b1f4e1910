"""Positions of a map that the only layer which reads it steps over."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, Flow, describe, operation, option
from cnnprobe.diagnosis.evidence.questions import complete, spoken
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import classifying, images

WINDOWS = ("conv", "max_pool", "avg_pool")
MAP = 3  # dims of a map of one spatial dim, with batch and channels
EDGES = (0, -1)


def _net(kernel: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return classifying(
        nn.Sequential(
            nn.Conv2d(1, 8, kernel, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        ),
        inputs=images(),
    )  # fmt: skip


def sick() -> Mapping[str, Any]:
    """A kernel of 1 with a stride of 2."""
    return _net(1)


def healthy() -> Mapping[str, Any]:
    """A kernel of 2: patches side by side."""
    return _net(2)


@rule(code="CP324", name="skipped-positions", severity=Severity.WARNING, examples=(sick, healthy))
def skipped_positions(evidence: Evidence) -> Iterator[Finding]:
    """The stride of a layer is larger than its kernel, or one corner of a map is all that is read,
    and nothing else reads the map.

    Why it matters: the positions between are never seen; what stands there cannot be learnt, and
    what computed them worked for nothing.
    What to do: a kernel of at least the stride, or pool first; average over the map.
    Known exceptions: a shortcut of 1 x 1 with a stride beside layers that read all of the map; both
    paths of a block that begin with one are info, as in the first ResNets; the position in the
    middle, which patches are labelled by.
    Source: torch.nn.Conv2d, the windows that a stride gives; He et al. 2019, "Bag of Tricks",
    arXiv:1812.01187, section 4.2: a 1 x 1 convolution with stride 2 ignores three quarters.
    """
    if not complete(evidence):
        return
    flow = Flow(evidence.trace)
    for i in flow.primitives(WINDOWS):
        share = _find_share(evidence, flow.calls[i])
        if share is None or share >= 1:
            continue
        readers = _list_readers(flow, i)
        if any(_reads_all(evidence, flow.calls[r]) for r in readers if r != i):
            continue
        call = flow.calls[i]
        sizes = " x ".join(map(str, call.inputs[0].shape[2:]))
        yield Finding(
            module=flow.owner(i),
            severity=Severity.INFO if len(readers) > 1 else None,
            message=(
                f"{describe(call)} steps over {1 - share:.0%} of its input of {sizes}: its stride "
                "is larger than its kernel, and no other layer reads the rest"
            ),
            fix=f"kernel_size at least the stride in {spoken(evidence, flow.owner(i))}",
            source=call.source,
            kind="stride",
        )
    yield from _find_corners(flow)


def _find_share(evidence: Evidence, call: ModuleCall) -> float | None:
    """The share of the positions of its input that a row reads; None where it is not known."""
    if not call.inputs or len(call.inputs[0].shape) < MAP or not call.outputs:
        return None
    rank = len(call.inputs[0].shape) - 2
    kernel = _read_sizes(evidence, call, "kernel_size", rank)
    if kernel is None and operation(call) == "conv" and len(call.inputs) > 1:
        kernel = call.inputs[1].shape[2:]
    stride = _read_sizes(evidence, call, "stride", rank)
    if kernel is None or stride is None or len(kernel) != rank or len(stride) != rank:
        return None
    sizes = call.inputs[0].shape[2:]
    return math.prod(
        min(1.0, k / s) if size > k else 1.0
        for k, s, size in zip(kernel, stride, sizes, strict=True)
    )


def _read_sizes(
    evidence: Evidence, call: ModuleCall, name: str, rank: int
) -> tuple[int, ...] | None:
    value = option(evidence.trace, call, name)
    if isinstance(value, int):
        return (value,) * rank
    return tuple(value) if isinstance(value, tuple | list) and value else None


def _list_readers(flow: Flow, index: int) -> list[int]:
    """The rows that read the same tensor."""
    given = flow.calls[index].inputs[0]
    if isinstance(given.source, int):
        return flow.readers.get(given.source, [])
    return [
        i
        for i in flow.primitives()
        if any(t.source is None and t.shape == given.shape for t in flow.calls[i].inputs)
        and flow.owner(i) is not None
    ]


def _reads_all(evidence: Evidence, call: ModuleCall) -> bool:
    share = _find_share(evidence, call) if operation(call) in WINDOWS else 1.0
    return share is None or share >= 1


def _find_corners(flow: Flow) -> Iterator[Finding]:
    """The rows that take the first or the last position of a map of a convolution."""
    for i in flow.primitives(("getitem",)):
        call = flow.calls[i]
        if not call.inputs or len(call.inputs[0].shape) <= MAP or flow.owner(i) is None:
            continue
        given = call.inputs[0]
        taken = [d for d in (2, 3) if call.arguments.get(f"[1][{d}]") in EDGES]
        lost = math.prod(given.shape[d] for d in taken)
        source = flow.producer(given)
        if lost <= 1 or source is None or len(flow.readers.get(source, ())) > 1:
            continue
        if not _is_map(flow, given):
            continue
        yield Finding(
            module=flow.owner(i),
            message=(
                f"one of {lost} positions of the map of {describe(flow.calls[source])}, of shape "
                f"{given.shape}, is taken, and nothing reads the others"
            ),
            fix="average over the map: x.mean(dim=(2, 3)), or x.flatten(1)",
            source=call.source,
            kind="corner",
        )


def _is_map(flow: Flow, info: TensorInfo) -> bool:
    """Whether the values come from a convolution or a pooling."""
    made = flow.origin(info, ARRANGING | {"relu", "batch_norm"})
    return made is not None and operation(flow.calls[made]) in WINDOWS
