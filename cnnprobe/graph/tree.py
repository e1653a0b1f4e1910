"""The nesting of a graph's nodes in module calls, and what makes two of them alike."""

from collections.abc import Iterator

from cnnprobe.graph.graph import Graph
from cnnprobe.graph.nodes import PARAMETER, Call

Item = tuple[int | None, int]  # (call, -1) or (None, node)


class CallTree:
    """Which call holds which calls and nodes, in the order of the forward pass.

    Where no calls were recorded, they are told by the dots of the nodes' modules.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.calls: list[Call] = list(graph.calls)
        self._known = {(call.fqn, call.call): i for i, call in enumerate(self.calls)}
        self.parameters = {node.id for node in graph.nodes if node.kind == PARAMETER}
        self.owner = [
            None if node.id in self.parameters else self._find_owner(node.module, node.call)
            for node in graph.nodes
        ]
        self.items: dict[int | None, list[Item]] = {None: []}
        for node in graph.nodes:
            if node.id not in self.parameters:
                self._place(node.id)
        self.depth = [
            len(self._list_chain(call)) for call in range(len(self.calls))
        ]  # the outermost call is 1 deep
        self.height = max((self.depth[call] for call in self.items if call is not None), default=1)

    def _find_owner(self, module: str | None, call: int) -> int | None:
        if module is None:
            return None
        found = self._known.get((module, call))
        if found is None:
            parent = self._find_owner(module.rpartition(".")[0], 0) if module else None
            found = self._known[module, call] = len(self.calls)
            self.calls.append(Call(module, call, "", parent))
        return found

    def _place(self, node: int) -> None:
        """Put the node into its call, and calls that are new into theirs."""
        call = self.owner[node]
        item: Item = (None, node)
        while True:
            known = call in self.items
            self.items.setdefault(call, []).append(item)
            if known or call is None:
                return
            item = (call, -1)
            call = self.calls[call].parent

    def _list_chain(self, call: int | None) -> list[int]:
        chain = []
        while call is not None:
            chain.append(call)
            call = self.calls[call].parent
        return chain[::-1]

    def holds_calls(self, call: int) -> bool:
        """Whether other module calls were made in this one."""
        return any(child is not None for child, _ in self.items[call])

    def opens(self, call: int) -> bool:
        """Whether there is more to see inside: other calls, or in a module view functions of its
        own.
        """
        return self.holds_calls(call) or (
            self.graph.view == "modules" and len(self.items[call]) > 1
        )

    def nodes_of(self, item: Item) -> list[int]:
        """All nodes in an item, at any depth."""
        found, stack = [], [item]
        while stack:
            call, node = stack.pop()
            if call is None:
                found.append(node)
            else:
                stack.extend(self.items[call])
        return sorted(found)

    def is_inside(self, node: int, fqn: str) -> bool:
        """Whether a node was made in a call of the module `fqn`, or of one below it."""
        call = self.owner[node]
        return any(self.calls[c].fqn == fqn for c in self._list_chain(call))

    def title(self, item: Item) -> str:
        """What an item is called where there is room for one name: class of the module, or name of
        the operation.
        """
        call, node = item
        return (
            self.graph.nodes[node].name
            if call is None
            else self.calls[call].kind or self.calls[call].fqn.rpartition(".")[2]
        )


def number_items(tree: CallTree, items: list[Item]) -> list[int]:
    """A number for each item; equal numbers mean the same operations with the same shapes,
    connected in the same way.

    A value from another item counts by how many items back that is: so that each of a row of blocks
    gets the same number.
    """
    sources: dict[int, list[int]] = tree.__dict__.setdefault("_sources", {})
    if not sources:
        for edge in tree.graph.edges:
            sources.setdefault(edge.end, []).append(edge.start)
    members = [tree.nodes_of(item) for item in items]
    place = {node: (at, k) for at, nodes in enumerate(members) for k, node in enumerate(nodes)}
    numbers: dict[object, int] = {}
    return [
        numbers.setdefault(tuple(_describe_item(tree, nodes, at, place, sources)), len(numbers))
        for at, nodes in enumerate(members)
    ]


def _describe_item(
    tree: CallTree,
    nodes: list[int],
    at: int,
    place: dict[int, tuple[int, int]],
    sources: dict[int, list[int]],
) -> Iterator[object]:
    base = place[nodes[0]][1] if nodes else 0
    for i in nodes:
        node = tree.graph.nodes[i]
        call = tree.owner[i]
        yield node.name, node.shape, node.dtype, tree.calls[call].kind if call is not None else ""
        for source in sources.get(i, ()):
            given = tree.graph.nodes[source]
            item, k = place.get(source, (None, 0))
            if item == at:
                yield k - base
            else:
                # the first of a row takes from outside what the others take from their neighbour
                back = 1 if item is None else at - item
                yield given.shape, given.parameter is not None, back
