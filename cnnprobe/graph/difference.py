"""What two graphs of the same model do not have in common: a branch taken, a loop that ran once
more, a module skipped.
"""

from collections import Counter
from collections.abc import Iterator

from cnnprobe.graph.changes import Change, GraphDifference
from cnnprobe.graph.graph import Graph
from cnnprobe.graph.nodes import Node

Key = tuple[
    str | None, int, str, int
]  # module, its call, name of the operation, which one of that name in that call


def make_keys(graph: Graph) -> list[Key]:
    """A name for each node that does not depend on what stands elsewhere in the graph."""
    seen: Counter[tuple[str | None, int, str]] = Counter()
    found = []
    for node in graph.nodes:
        stem = (node.module, node.call, node.parameter or node.name)
        found.append((*stem, seen[stem]))
        seen[stem] += 1
    return found


def diff_graphs(before: Graph, after: Graph) -> GraphDifference:
    """What `after` has that `before` has not, and the other way round.

    A module that was called more or less often is one change, whatever it contains; only operations
    of calls that both graphs have are told one by one.
    """
    calls = tuple(_diff_calls(before, after))
    changed = {change.module for change in calls}
    old, new = (
        dict(zip(make_keys(before), before.nodes, strict=True)),
        dict(zip(make_keys(after), after.nodes, strict=True)),
    )
    whole = _find_shared_calls(before, after)
    operations = tuple(
        change
        for change in _diff_operations(old, new, whole)
        if not _is_told(change.module, changed)
    )
    common = [(old[key], new[key]) for key in old if key in new and key[0] not in changed]
    reshaped = tuple((a, b) for a, b in common if (a.shape, a.dtype) != (b.shape, b.dtype))
    return GraphDifference(changes=(*calls, *operations), reshaped=reshaped)


def _diff_calls(before: Graph, after: Graph) -> Iterator[Change]:
    """Modules whose number of calls differs, the outermost only: what they contain goes with
    them.
    """
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


def _find_shared_calls(before: Graph, after: Graph) -> set[tuple[str | None, int]]:
    old = {(call.fqn, call.call) for call in before.calls}
    both: set[tuple[str | None, int]] = {
        (call.fqn, call.call) for call in after.calls if (call.fqn, call.call) in old
    }
    return both | {(None, 0)} if before.calls or after.calls else both


def _diff_operations(
    old: dict[Key, Node], new: dict[Key, Node], whole: set[tuple[str | None, int]]
) -> Iterator[Change]:
    """Operations that came or went within calls that both graphs have (all of them where no calls
    were recorded).
    """
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
