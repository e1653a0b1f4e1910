"""At which sizes a layer cuts off rows or columns at the edge of its input, by the arithmetic of
its window. No torch.
"""

from collections.abc import Iterable, Mapping

from cnnprobe.document.layout.arithmetic import SlidingWindow, compute_output_size, find_window
from cnnprobe.records.trace import Trace


def find_cut_axes(trace: Trace, rank: int) -> frozenset[int]:
    """The spatial dims, from 0, along which a convolution or pooling leaves out the last elements
    of its input.

    Args:
        trace: a forward pass; of one that raised, the calls before.
        rank: the number of spatial dims of the model's input; windows of other ranks are left out.
    """
    configs = {module.fqn: module.config for module in trace.modules}
    cut: set[int] = set()
    for call in trace.calls:
        if not (call.completed and call.inputs and call.outputs):
            continue
        window = find_window(call, configs.get(call.fqn or "", {}))
        if window is not None and len(window.kernel) == rank and not window.transposed:
            sizes = call.inputs[0].shape[-rank:]
            cut.update(i for i in range(rank) if count_cut(window, i, sizes[i]) > 0)
    return frozenset(cut)


def count_cut(window: SlidingWindow, axis: int, size: int) -> int:
    """Elements after the last window of an axis, which nothing reads.

    A stride greater than the kernel leaves out elements everywhere; those are not of the edge.
    """
    kernel, stride, dilation, padding = (
        values[axis] for values in (window.kernel, window.stride, window.dilation, window.padding)
    )
    last = (compute_output_size(window, axis, size) - 1) * stride - padding // 2
    return max(size - last - max(dilation * (kernel - 1) + 1, stride), 0)


def find_residues(cut: Mapping[int, bool], period: int) -> tuple[int, tuple[int, ...]]:
    """The period, as short as it can be, and the remainders of the sizes at which nothing is cut.

    Args:
        cut: size -> whether an edge is cut off there.
        period: a number after which it repeats.

    >>> find_residues({8: False, 9: True, 10: False, 11: True}, 4)
    (2, (0,))
    """
    found = {size % period: is_cut for size, is_cut in cut.items()}
    for shorter in _list_divisors(period):
        folded: dict[int, set[bool]] = {}
        for residue, is_cut in found.items():
            folded.setdefault(residue % shorter, set()).add(is_cut)
        if all(len(values) == 1 for values in folded.values()):
            return shorter, tuple(sorted(r for r, v in folded.items() if not v.pop()))
    return period, ()


def _list_divisors(number: int) -> Iterable[int]:
    return (n for n in range(1, number + 1) if number % n == 0)


def count_windows(trace: Trace) -> int:
    """The completed calls that have a window: as many at every size, unless the forward raised."""
    configs = {module.fqn: module.config for module in trace.modules}
    return sum(
        1
        for call in trace.calls
        if call.completed and find_window(call, configs.get(call.fqn or "", {})) is not None
    )
