"""Lets go of a deep autograd graph in steps, so that having looked at it does not crash the process when it is dropped.

A node that Python has seen is freed recursively by torch, one C++ stack frame and more a node: once `next_functions` was
read along a chain of more than about 42,000 nodes (8 MiB of stack; torch 2.13 and 2.15), dropping its end is a segmentation fault, long after the walk
and in code of the user's. Here every node at which a path has become `STEP` nodes longer holds, in its `metadata`, those at
which the paths below it become so again. When it is freed they are let go one after the other, never one inside the other,
wherever the user began to drop: at the output, at a tensor in the middle, or by backward.
"""

import threading
from collections.abc import Sequence
from typing import Any

STEP = 1_000  # nodes that are freed recursively at most, some 200 bytes of C stack each
_KEY = "cnnprobe"


class _Draining(threading.local):
    """What this thread has still to let go of, and whether it is about it."""

    def __init__(self) -> None:
        self.queue: list[Any] = []
        self.busy = False


class _Below:
    """Holds the next nodes below; when the node that it belongs to is freed, they are let go, one at a time."""

    __slots__ = ("nodes",)
    draining = _Draining()

    def __init__(self, nodes: list[Any]) -> None:
        self.nodes = nodes

    def __del__(self) -> None:
        draining = self.draining
        draining.queue.extend(self.nodes)
        self.nodes = []
        if draining.busy:
            return
        draining.busy = True
        try:
            while draining.queue:
                draining.queue.pop()
        finally:
            draining.busy = False


def secure(functions: Sequence[Any], below: Sequence[Sequence[int]]) -> None:
    """Make a walked graph safe to drop.

    Args:
        functions: the grad_fn objects in the order of the forward pass.
        below: for each of them the positions of its `next_functions`, all smaller than its own.
    """
    if len(functions) <= STEP:
        return
    depth = _depths(below)
    if max(depth) <= STEP:
        return
    for holder, held in _steps(depth, below).items():
        functions[holder].metadata[_KEY] = _Below([functions[node] for node in sorted(held)])


def _depths(below: Sequence[Sequence[int]]) -> list[int]:
    """Length of the longest path from an output to each node."""
    depth = [0] * len(below)
    for node in range(len(below) - 1, -1, -1):
        further = depth[node] + 1
        for other in below[node]:
            if depth[other] < further:  # noqa: PLR1730 - a call of max() takes three times as long
                depth[other] = further
    return depth


def _steps(depth: Sequence[int], below: Sequence[Sequence[int]]) -> dict[int, set[int]]:
    """For each node at the start of a stretch of `STEP` nodes: the starts of the stretches that follow it."""
    stretch = [steps // STEP for steps in depth]
    starts = {other for node, nexts in enumerate(below) for other in nexts if stretch[node] < stretch[other]}
    nearest: list[frozenset[int] | None] = [None] * len(below)  # starts (or outputs) above, none in between; shared along chains
    held: dict[int, set[int]] = {}
    for node in range(len(below) - 1, -1, -1):
        above = nearest[node]
        if above is None or node in starts:
            for start in above or ():
                held.setdefault(start, set()).add(node)
            above = frozenset((node,))
        nearest[node] = None
        for other in below[node]:
            known = nearest[other]
            if known is not above:
                nearest[other] = above if known is None else known | above
    return held
