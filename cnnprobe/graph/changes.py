"""What differs between two graphs of the same model, as data and in words."""

from collections.abc import Iterator
from dataclasses import dataclass

from cnnprobe.graph.nodes import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A module (or the operations of one) that ran `before` times in the first graph and `after`
    times in the second.
    """

    module: str | None  # fqn; None: outside of every recorded call
    # class of the module, or of the operation ("AddBackward0") where no whole call came or went
    name: str
    before: int
    after: int
    sources: tuple[str, ...] = ()  # the user's lines of what came or went


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDifference:
    """All that differs, in the order of the forward pass; true if anything does."""

    changes: tuple[Change, ...] = ()
    reshaped: tuple[tuple[Node, Node], ...] = ()  # the same operation with another shape or dtype

    def __bool__(self) -> bool:
        return bool(self.changes or self.reshaped)

    def __str__(self) -> str:
        return "\n".join(write_sentences(self)) or "the graphs are the same"


def write_sentences(found: GraphDifference) -> Iterator[str]:
    """The difference in words, one line each."""
    for change in found.changes:
        where = f"'{change.module}' ({change.name})" if change.module is not None else change.name
        if change.name.endswith(("Backward0", "Backward1", "Backward2")) or change.module == "":
            where = f"{change.name} in '{change.module}'" if change.module else change.name
        lines = f", at {', '.join(change.sources)}" if change.sources else ""
        yield (
            f"{where} ran {_format_times(change.after)} instead of "
            f"{_format_times(change.before)}{lines}"
        )
    for a, b in found.reshaped:
        where = f" in '{a.module}'" if a.module else ""
        yield (
            f"{a.parameter or a.name}{where} outputs {_describe_form(b)} instead of "
            f"{_describe_form(a)}"
        )


def _format_times(count: int) -> str:
    return {0: "not at all", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _describe_form(node: Node) -> str:
    return f"{node.shape} {node.dtype}"
