"""Folds a graph to module calls: to a depth, identical blocks once, and no more boxes than a person
can follow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cnnprobe.errors import UnknownNameError, suggest
from cnnprobe.graph.graph import Graph
from cnnprobe.graph.nodes import BLOCKS, MODULE, MORE, Edge, Node
from cnnprobe.graph.order import sort_by_dependence
from cnnprobe.graph.repeats import find_runs
from cnnprobe.graph.tree import CallTree, Item, number_items

BOXES = 80  # more than that nobody follows on one page
_TOLD = (
    "overwritten",
    "recomputed",
    "packed by a hook",
    "hook",
    "failed",
    "in-place",
)  # marks that are said of a whole module


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Nodes that are drawn as one: a module call, identical blocks, or one node that stands for
    itself (`kind` is then "").
    """

    nodes: tuple[int, ...]
    kind: str = ""
    name: str = ""
    module: str | None = None
    call: int = 0
    source: str = ""
    marks: tuple[str, ...] = ()


def collapse(
    graph: Graph, depth: int | None = None, *, limit: int | None = None, around: str | None = None
) -> Graph:
    """See `Graph.collapse`."""
    tree = CallTree(graph)
    if around is not None and all(call.fqn != around for call in tree.calls):
        raise UnknownNameError(
            f"no recorded call of a module named {around!r}",
            where=f"graph of {graph.title or 'the output'}",
            fix=suggest(around, dict.fromkeys(call.fqn for call in tree.calls if call.fqn)),
        )
    most = BOXES if limit is None else limit
    if depth is not None:
        return _build_folded(
            graph, tree, _select_near(graph, tree, list(_list_boxes(tree, depth)), around)
        )
    best: list[Box] = []
    for level in range(1, tree.height + 1):
        boxes = _select_near(graph, tree, list(_list_boxes(tree, level)), around)
        if best and len(boxes) > most:
            break
        best = boxes
    return _build_folded(graph, tree, _shorten(best, most))


def _list_boxes(tree: CallTree, depth: int) -> Iterator[Box]:
    """What is shown if calls `depth` levels below the outermost are closed; of identical neighbours
    only the first is opened.
    """
    stack: list[Item | Box] = list(reversed(list(_list_shown(tree, None, depth))))
    while stack:
        item = stack.pop()
        if isinstance(item, Box):
            yield item
            continue
        call, node = item
        if call is None:
            yield Box(nodes=(node,))
        elif _is_open(tree, call, depth):
            stack.extend(reversed(list(_list_shown(tree, call, depth))))
        else:
            made = tree.calls[call]
            yield Box(
                nodes=tuple(tree.nodes_of(item)),
                kind=MODULE,
                name=tree.title(item),
                module=made.fqn,
                call=made.call,
                source=made.source,
            )


def _is_open(tree: CallTree, call: int, depth: int) -> bool:
    return tree.depth[call] <= depth and tree.opens(call)


def _list_shown(tree: CallTree, call: int | None, depth: int) -> Iterator[Item | Box]:
    """The items of a call; where they repeat themselves, the first ones and a box for the rest."""
    items = tree.items[call]
    found = {run.start: run for run in find_runs(number_items(tree, items))}
    i = 0
    while i < len(items):
        run = found.get(i)
        if run is None:
            yield items[i]
            i += 1
            continue
        first, rest = items[i : i + run.period], items[i + run.period : run.end]
        yield from first
        if len(rest) > 1 or any(
            child is not None and _is_open(tree, child, depth) for child, _ in rest
        ):
            yield _make_box(tree, first, rest, run.times - 1)
        else:
            yield from rest
        i = run.end


def _make_box(tree: CallTree, first: Sequence[Item], rest: Sequence[Item], count: int) -> Box:
    """The box that stands for `rest`, which is `count` times `first`."""
    titles = [tree.title(item) for item in first]
    names = [tree.calls[call].fqn for call, _ in rest if call is not None]
    shown = next((tree.calls[call].fqn for call, _ in first if call is not None), None)
    nodes = tuple(sorted(node for item in rest for node in tree.nodes_of(item)))
    if len(rest) == 1 and rest[0][0] is not None:
        made = tree.calls[rest[0][0]]
        return Box(
            nodes=nodes,
            kind=MODULE,
            name=titles[0],
            module=made.fqn,
            call=made.call,
            source=made.source,
            marks=(f"like {shown}",),
        )
    return Box(
        nodes=nodes,
        kind=BLOCKS,
        name=(titles[0] if len(titles) == 1 else f"({', '.join(titles)})") + f" × {count}",
        module=names[0] if names else None,
        marks=(
            *([f"to {names[-1]}"] if len(names) > 1 else []),
            *([f"like {shown}"] if shown is not None else []),
        ),
    )


def _select_near(graph: Graph, tree: CallTree, boxes: list[Box], around: str | None) -> list[Box]:
    """The boxes of the module `around` and those next to them."""
    if around is None:
        return boxes
    inside = {
        i for i, box in enumerate(boxes) if any(tree.is_inside(node, around) for node in box.nodes)
    }
    box_of = {node: i for i, box in enumerate(boxes) for node in box.nodes}
    near = set(inside)
    for edge in graph.edges:
        a, b = box_of.get(edge.start), box_of.get(edge.end)
        if a is not None and b is not None and (a in inside or b in inside):
            near |= {a, b}
    return [box for i, box in enumerate(boxes) if i in near]


def _shorten(boxes: list[Box], limit: int) -> list[Box]:
    """The first and the last boxes, and one for all in between."""
    if len(boxes) <= limit:
        return boxes
    head, tail = limit - limit // 2, max(limit // 2 - 1, 0)
    middle = boxes[head : len(boxes) - tail]
    nodes = tuple(sorted(node for box in middle for node in box.nodes))
    return [
        *boxes[:head],
        Box(nodes=nodes, kind=MORE, name=f"{len(middle)} more"),
        *boxes[len(boxes) - tail :],
    ]


# ---------------------------------------------------------------- the folded graph


def _build_folded(graph: Graph, tree: CallTree, boxes: list[Box]) -> Graph:
    boxes = _add_parameters(graph, tree, boxes)
    box_of = {node: i for i, box in enumerate(boxes) for node in box.nodes}
    pairs: dict[tuple[int, int], None] = {}
    leaving = set(graph.outputs)
    for edge in graph.edges:
        a, b = box_of.get(edge.start), box_of.get(edge.end)
        if a is not None and b is not None and a != b:
            pairs[a, b] = None
            leaving.add(edge.start)
    below: list[list[int]] = [[] for _ in boxes]
    for a, b in pairs:
        below[b].append(a)
    order = sort_by_dependence([float(box.nodes[0]) for box in boxes], below)
    position = {old: new for new, old in enumerate(order)}
    nodes = [_make_node(graph, i, boxes[old], leaving) for i, old in enumerate(order)]
    edges = [
        Edge(position[a], i, k) for i, old in enumerate(order) for k, a in enumerate(below[old])
    ]
    return Graph(
        nodes=tuple(nodes),
        edges=tuple(edges),
        calls=graph.calls,
        outputs=tuple(
            dict.fromkeys(position[box_of[node]] for node in graph.outputs if node in box_of)
        ),
        saved=tuple(
            entry._replace(node=position[box_of[entry.node]])
            for entry in graph.saved
            if entry.node in box_of
        ),
        title=graph.title,
        view="modules",
        notes=graph.notes,
    )


def _add_parameters(graph: Graph, tree: CallTree, boxes: list[Box]) -> list[Box]:
    """Parameters go into the module that uses them first; what a loose operation uses is a box of
    its own.
    """
    box_of = {node: i for i, box in enumerate(boxes) for node in box.nodes}
    added: dict[int, list[int]] = {}
    alone: list[Box] = []
    homes: dict[int, int] = {}
    for edge in graph.edges:
        if edge.start in tree.parameters and edge.end in box_of:
            homes.setdefault(edge.start, box_of[edge.end])
    for node, home in homes.items():
        if boxes[home].kind:
            added.setdefault(home, []).append(node)
        else:
            alone.append(Box(nodes=(node,)))
    return [
        replace(box, nodes=(*box.nodes, *added[i])) if i in added else box
        for i, box in enumerate(boxes)
    ] + alone


def _make_node(graph: Graph, i: int, box: Box, leaving: set[int]) -> Node:
    members = [graph.nodes[node] for node in box.nodes]
    if not box.kind:
        return members[0]._replace(id=i)
    last = max(members, key=lambda node: (node.id in leaving, node.parameter is None, node.id))
    told = {mark for node in members for mark in node.marks}
    outputs = (
        [mark for mark in last.marks if mark.endswith(" outputs")] if len(members) == 1 else []
    )
    return Node(
        i,
        box.name,
        box.kind,
        box.module,
        box.call,
        box.source,
        last.shape,
        last.dtype,
        saved_bytes=sum(node.saved_bytes for node in members),
        marks=(*box.marks, *outputs, *(mark for mark in _TOLD if mark in told)),
        members=sum(node.members for node in members),
    )
