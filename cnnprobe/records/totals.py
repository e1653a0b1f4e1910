"""What a trace adds up to: parameters, buffers, multiply-accumulates and bytes. Torch-free, linear
in the number of rows.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cnnprobe.records.trace import ModuleCall, ParameterInfo, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over a trace. Counts are in elements, sizes in bytes; tied parameters stand once.

    `operations` are the rows without rows below; those of them that have a formula are `counted`,
    the others stand in `uncounted` by kind. What activation checkpointing computed again is in no
    sum.
    """

    parameters: int
    trainable: int
    buffers: int
    parameter_bytes: Mapping[str, int]  # by dtype
    buffer_bytes: Mapping[str, int]  # by dtype
    macs: int
    operations: int
    counted: int
    uncounted: Mapping[str, int]  # kind of the operation -> calls of it
    activation_bytes: (
        int  # outputs of all operations; an output that was passed on unchanged stands once
    )


def add_up(trace: Trace) -> Totals:
    """The sums over all rows and parameters of `trace`.

    >>> add_up(Trace(model="Empty")).parameters
    0
    """
    weights = [p for p in trace.parameters if p.kind == "parameter"]
    buffers = [p for p in trace.parameters if p.kind != "parameter"]
    operations = [(i, trace.calls[i]) for i in list_leaves(trace)]
    done = [call for _, call in operations if call.completed]
    uncounted = Counter(call.kind for call in done if call.macs is None)
    return Totals(
        parameters=sum(p.numel for p in weights),
        trainable=sum(p.numel for p in weights if p.trainable),
        buffers=sum(p.numel for p in buffers),
        parameter_bytes=_bytes_by_dtype(weights),
        buffer_bytes=_bytes_by_dtype(buffers),
        macs=sum(call.macs or 0 for call in done),
        operations=len(done),
        counted=len(done) - uncounted.total(),
        uncounted=dict(uncounted.most_common()),
        activation_bytes=sum(count_made_bytes(i, call) for i, call in operations),
    )


def list_leaves(trace: Trace) -> list[int]:
    """Indices of the rows that have no rows below them, without those that were computed again."""
    parents = {call.parent for call in trace.calls}
    return [i for i, call in enumerate(trace.calls) if i not in parents and not call.recomputed]


def count_made_bytes(index: int, call: ModuleCall) -> int:
    """Bytes of the outputs that this call itself made; those that it passed on from an earlier row
    are not counted again.
    """
    return sum(out.nbytes for out in call.outputs if out.source is None or out.source == index)


def _bytes_by_dtype(parameters: list[ParameterInfo]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for parameter in parameters:
        sizes[parameter.dtype] += parameter.nbytes
    return dict(sizes.most_common())
