"""The graph behind a loss: which saved tensors were overwritten, which are gone, and which call made a node."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cnnprobe.crash.crash import Crash
from cnnprobe.trace import ModuleCall

MOST_NODES = (
    40_000  # of a graph that are looked at: a longer walk from Python is a danger to torch itself
)


@dataclass(frozen=True)
class Saved:
    """A tensor that a node of the graph has kept for its backward."""

    node: Any
    name: str


def walk_nodes(*starts: Any) -> Iterator[Any]:
    """The nodes of a graph that some nodes start, by level."""
    seen: set[Any] = set()
    level = list(starts)
    while level and len(seen) < MOST_NODES:
        below = []
        for node in level:
            if node is None or node in seen:
                continue
            seen.add(node)
            yield node
            below += [child for child, _ in node.next_functions]
        level = below


def find_saved(loss: Tensor) -> tuple[list[Saved], list[Saved], list[Saved]]:
    """The saved tensors that were overwritten, those that are gone, and those that are there, in the order of the backward.

    Reading one raises in the first two cases; only one that is still there lets hooks be registered.
    """
    modified: list[Saved] = []
    freed: list[Saved] = []
    kept: list[Saved] = []
    for node in walk_nodes(loss.grad_fn):
        for name in dir(node):
            if name.startswith("_saved_"):
                state = _state(node, name)
                if state is not None:
                    {"modified": modified, "freed": freed, "kept": kept}[state].append(
                        Saved(node, name)
                    )
    return modified, freed, kept


def broke_off(freed: list[Saved], kept: list[Saved]) -> bool:
    """Whether what is gone went in this very backward, which runs the nodes that were made last first: all that is left is older than it."""
    gone = [n for one in freed if (n := get_number(one.node)) is not None]
    left = [n for one in kept if (n := get_number(one.node)) is not None]
    return bool(gone) and bool(left) and max(left) < min(gone)


def _state(node: Any, name: str) -> str | None:
    try:
        return "kept" if isinstance(getattr(node, name), Tensor) else None
    except RuntimeError:
        raw = getattr(node, "_raw" + name, None)
        if raw is None or isinstance(raw, list | tuple):
            return None
        try:
            raw.register_hooks(lambda t: t, lambda t: t)
        except RuntimeError:
            return "freed"
        return "modified"
    except Exception:  # a node that does not show what it keeps
        return None


def get_number(node: Any) -> int | None:
    """Autograd's sequence number of a node: the order in which nodes were made."""
    with contextlib.suppress(AttributeError, RuntimeError):
        return int(node._sequence_nr())
    return None


def find_maker(crash: Crash | None, node: Any) -> tuple[int, ModuleCall] | None:
    """The innermost recorded call that made a node of the graph."""
    number = get_number(node)
    if crash is None or number is None:
        return None
    found = [
        (i, c)
        for i, c in enumerate(crash.trace.calls)
        if c.sequence is not None and c.sequence[0] <= number < c.sequence[1]
    ]
    return max(found, key=lambda pair: pair[1].depth, default=None)
