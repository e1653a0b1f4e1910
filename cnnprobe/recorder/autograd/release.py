"""Lets go of a deep autograd graph in steps, so that having looked at it does not crash the process
when it is dropped.

A node that Python has seen is freed recursively by torch, one C++ stack frame and more a node: once
`next_functions` was read along a chain of more than about 42,000 nodes (8 MiB of stack; torch 2.13
and 2.15), dropping its end is a segmentation fault, long after the walk and in code of the user's.
Here every node at which a path has become `STEP` nodes longer holds, in its `metadata`, those at
which the paths below it become so again. When it is freed they are let go one after the other,
never one inside the other, wherever the user began to drop: at the output, at a tensor in the
middle, or by backward.
"""

import threading
from collections.abc import Sequence
from typing import Any

from cnnprobe.graph import Edge

STEP = 1_000  # nodes that are freed recursively at most, some 200 bytes of C stack each
_KEY = "cnnprobe"


class _Draining(threading.local):
    """What this thread has still to let go of, and whether it is about it."""

    def __init__(self) -> None:
        self.queue: list[Any] = []
        self.busy = False


class _Below:
    """Holds the next nodes below; when the node that it belongs to is freed, they are let go, one
    at a time.
    """

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


def secure(functions: Sequence[Any], edges: Sequence[Edge]) -> None:
    """Make a walked graph safe to drop.

    Args:
        functions: the grad_fn objects in the order of the forward pass.
        edges: between their positions, in the order of their ends.
    """
    if len(functions) <= STEP:
        return
    depth = _depths(len(functions), edges)
    if max(depth) <= STEP:
        return
    for holder, held in _steps(depth, edges).items():
        functions[holder].metadata[_KEY] = _Below([functions[node] for node in sorted(held)])


def _depths(count: int, edges: Sequence[Edge]) -> list[int]:
    """Length of the longest path from an output to each node."""
    depth = [0] * count
    for start, end, _, _ in reversed(edges):  # all that uses `end` stands behind it, and was met
        further = depth[end] + 1
        if depth[start] < further:  # noqa: PLR1730 - a call of max() takes three times as long
            depth[start] = further
    return depth


def _steps(depth: Sequence[int], edges: Sequence[Edge]) -> dict[int, set[int]]:
    """For each node at the start of a stretch of `STEP` nodes: the starts of the stretches that
    follow it.
    """
    stretch = [steps // STEP for steps in depth]
    starts = {start for start, end, _, _ in edges if stretch[end] < stretch[start]}
    nearest: list[frozenset[int] | None] = [None] * len(
        depth
    )  # starts (or outputs) above, none in between; shared along chains
    held: dict[int, set[int]] = {}
    last, above = -1, frozenset[int]()
    for below, node, _, _ in reversed(edges):
        if node != last:
            last, found, nearest[node] = node, nearest[node], None
            if found is None or node in starts:
                for start in found or ():
                    held.setdefault(start, set()).add(node)
                found = frozenset((node,))
            above = found
        known = nearest[below]
        if known is not above:
            nearest[below] = above if known is None else known | above
    return held
