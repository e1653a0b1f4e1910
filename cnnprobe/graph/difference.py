"""What two graphs of the same model do not have in common: a branch taken, a loop that ran once more, a module skipped."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cnnprobe.graph.nodes import Graph, Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A module (or the operations of one) that ran `before` times in the first graph and `after` times in the second."""

    module: str | None  # fqn; None: outside of every recorded call
    name: str  # class of the module, or of the operation ("AddBackward0") where no whole call came or went
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
        return "\n".join(sentences(self)) or "the graphs are alike"


Key = tuple[
    str | None, int, str, int
]  # module, its call, name of the operation, which one of that name in that call


def keys(graph: Graph) -> list[Key]:
    """A name for each node that does not depend on what stands elsewhere in the graph."""
    seen: Counter[tuple[str | None, int, str]] = Counter()
    found = []
    for node in graph.nodes:
        stem = (node.module, node.call, node.parameter or node.name)
        found.append((*stem, seen[stem]))
        seen[stem] += 1
    return found


def difference(before: Graph, after: Graph) -> GraphDifference:
    """What `after` has that `before` has not, and the other way round.

    A module that was called more or less often is one change, whatever it contains; only operations of calls that both
    graphs have are told one by one.
    """
    calls = tuple(_calls(before, after))
    changed = {change.module for change in calls}
    old, new = (
        dict(zip(keys(before), before.nodes, strict=True)),
        dict(zip(keys(after), after.nodes, strict=True)),
    )
    whole = _calls_of_both(before, after)
    operations = tuple(
        change for change in _operations(old, new, whole) if not _is_told(change.module, changed)
    )
    common = [(old[key], new[key]) for key in old if key in new and key[0] not in changed]
    reshaped = tuple((a, b) for a, b in common if (a.shape, a.dtype) != (b.shape, b.dtype))
    return GraphDifference(changes=(*calls, *operations), reshaped=reshaped)


def sentences(found: GraphDifference) -> Iterator[str]:
    """The difference in words, one line each."""
    for change in found.changes:
        where = f"'{change.module}' ({change.name})" if change.module is not None else change.name
        if change.name.endswith(("Backward0", "Backward1", "Backward2")) or change.module == "":
            where = f"{change.name} in '{change.module}'" if change.module else change.name
        lines = f", at {', '.join(change.sources)}" if change.sources else ""
        yield f"{where} ran {_times(change.after)} instead of {_times(change.before)}{lines}"
    for a, b in found.reshaped:
        where = f" in '{a.module}'" if a.module else ""
        yield f"{a.parameter or a.name}{where} gives {_form(b)} instead of {_form(a)}"


def _times(count: int) -> str:
    return {0: "not at all", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _form(node: Node) -> str:
    return f"{node.shape} {node.dtype}"


def _calls(before: Graph, after: Graph) -> Iterator[Change]:
    """Modules whose number of calls differs, the outermost only: what they contain goes with them."""
    old, new = Counter(call.fqn for call in before.calls), Counter(call.fqn for call in after.calls)
    differ = [fqn for fqn in dict.fromkeys([*new, *old]) if old[fqn] != new[fqn]]
    kinds = {call.fqn: call.kind for call in (*before.calls, *after.calls)}
    for fqn in differ:
        if any(_is_inside(fqn, other) for other in differ):
            continue
        more = after if new[fqn] > old[fqn] else before
        lines = [
            call.source
            for call in more.calls
            if call.fqn == fqn and call.call >= min(old[fqn], new[fqn]) and call.source
        ]
        yield Change(
            module=fqn,
            name=kinds[fqn],
            before=old[fqn],
            after=new[fqn],
            sources=tuple(dict.fromkeys(lines)),
        )


def _is_told(module: str | None, changed: set[str | None]) -> bool:
    return module is not None and any(
        other is not None and (module == other or _is_inside(module, other)) for other in changed
    )


def _is_inside(fqn: str, other: str) -> bool:
    return fqn != other and (other == "" or fqn.startswith(other + "."))


def _calls_of_both(before: Graph, after: Graph) -> set[tuple[str | None, int]]:
    old = {(call.fqn, call.call) for call in before.calls}
    both: set[tuple[str | None, int]] = {
        (call.fqn, call.call) for call in after.calls if (call.fqn, call.call) in old
    }
    return both | {(None, 0)} if before.calls or after.calls else both


def _operations(
    old: dict[Key, Node], new: dict[Key, Node], whole: set[tuple[str | None, int]]
) -> Iterator[Change]:
    """Operations that came or went within calls that both graphs have (all of them where no calls were recorded)."""
    counts: dict[tuple[str | None, str], list[int]] = {}
    lines: dict[tuple[str | None, str], dict[str, None]] = {}
    for side, (nodes, others) in enumerate(((old, new), (new, old))):
        for key, node in nodes.items():
            group = (key[0], node.parameter or node.name)
            if whole and (key[0], key[1]) not in whole and node.parameter is None:
                continue
            counts.setdefault(group, [0, 0])[side] += 1
            if key not in others and node.source:
                lines.setdefault(group, {})[node.source] = None
    for (module, name), (before, after) in counts.items():
        if before != after:
            yield Change(
                module=module,
                name=name,
                before=before,
                after=after,
                sources=tuple(lines.get((module, name), ())),
            )
