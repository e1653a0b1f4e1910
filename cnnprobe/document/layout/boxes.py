"""The graph beside the table: pictures of one forward pass, each box with the keys of the rows that
it stands for.
"""

from collections.abc import Iterator, Mapping

from cnnprobe.document.blocks import Picture
from cnnprobe.document.layout.graphs import OPERATIONS_DRAWN
from cnnprobe.document.render import as_svg
from cnnprobe.graph import BLOCKS, FUNCTION, Graph, Node, build_module_graph
from cnnprobe.records.trace import Trace
from cnnprobe.records.words import format_counted

_ALL_DRAWN = 400  # boxes; the whole of a larger model is no picture that anybody looks at
_TO = "to "  # the mark of a box of several blocks that names the last of them


def draw_graph_pictures(trace: Trace, graph: Graph | None = None) -> Iterator[Picture]:
    """The modules as far as a person can follow, then the outermost ones alone, then all of them;
    last autograd's graph if there is one.
    """
    whole = build_module_graph(trace)
    views = [("modules", whole.collapse()), ("outermost modules", whole.collapse(1))]
    if len(whole.nodes) <= _ALL_DRAWN:
        views.append(("all modules", whole))
    drawn: set[int] = set()
    for name, view in views:
        if len(view.nodes) > 1 and len(view.nodes) not in drawn:
            drawn.add(len(view.nodes))
            yield _draw_picture(trace, name, view)
    if graph is not None and graph.nodes:
        yield _draw_picture(
            trace, "autograd", graph if len(graph.nodes) <= OPERATIONS_DRAWN else graph.collapse()
        )


def _draw_picture(trace: Trace, name: str, graph: Graph) -> Picture:
    caption = f"{name}: {format_counted(len(graph.nodes), 'box', 'boxes')}"
    return Picture(
        svg=as_svg.render_graph(graph, keys=map_boxes_to_keys(trace, graph)),
        alt=f"graph of {trace.model}, {caption}",
        caption=caption,
    )


def map_boxes_to_keys(trace: Trace, graph: Graph) -> Mapping[int, str]:
    """For each box, by its id, the keys of the rows of the module table that it stands for,
    separated by blanks.
    """
    rows = _Rows(trace)
    found = ((node.id, rows.find_rows(node)) for node in graph.nodes)
    return {i: " ".join(f"c{row}" for row in keys) for i, keys in found if keys}


class _Rows:
    """Finds the rows of a box by what the box says of itself."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.calls = {
            (call.fqn, call.index): i
            for i, call in enumerate(trace.calls)
            if call.fqn is not None and not call.recomputed
        }
        self.functions: dict[object, list[int]] = {}
        for i, call in reversed(list(enumerate(trace.calls))):
            if call.fqn is None and not call.recomputed:
                shape = call.outputs[0].shape if call.outputs else None
                self.functions.setdefault((call.kind, call.source, shape), []).append(i)

    def find_rows(self, node: Node) -> list[int]:
        """The rows of one box, the first of them foremost."""
        if node.kind == FUNCTION:
            alike = self.functions.get((node.name, node.source, node.shape))
            return [alike.pop()] if alike else []
        first = None if node.module is None else self.calls.get((node.module, node.call))
        if first is None:
            return []
        return self._list_blocks(node, first) if node.kind == BLOCKS else [first]

    def _list_blocks(self, node: Node, first: int) -> list[int]:
        """All neighbours from the first to the last that the box names."""
        name = next(
            (mark.removeprefix(_TO) for mark in node.marks if mark.startswith(_TO)), node.module
        )
        last = first if name is None else self.calls.get((name, 0), first)
        parent = self.trace.calls[first].parent
        return [
            i
            for i in range(first, last + 1)
            if self.trace.calls[i].parent == parent and self.trace.calls[i].fqn is not None
        ]
