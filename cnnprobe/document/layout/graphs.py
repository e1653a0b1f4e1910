"""What is shown of a graph: a picture, a table of its boxes, and its notes."""

from dataclasses import replace

from cnnprobe.document.layout.frames import list_notes
from cnnprobe.document.render import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Picture,
    Row,
    Table,
    as_svg,
    labels,
)
from cnnprobe.document.render.units import format_size
from cnnprobe.graph import Graph
from cnnprobe.graph.folding import BOXES
from cnnprobe.records.words import format_counted

OPERATIONS_DRAWN = 500  # of autograd's own view; beyond it a picture is folded to modules


def lay_out_graph(graph: Graph, *, picture: bool = True) -> Document:
    """The picture of a graph, its boxes as a table, and what could not be observed."""
    title = f"Graph of {graph.title}" if graph.title else "Graph"
    facts = [("boxes", f"{len(graph.nodes)}"), ("lines", f"{len(graph.edges)}")]
    if graph.saved:
        facts += [(f"kept {kind}s", format_size(total)) for kind, total in _sum_kept(graph).items()]
    blocks: list[Block] = [Heading(text=title, level=1), Facts(pairs=tuple(facts))]
    blocks += list_notes(graph.notes)
    if picture:
        blocks.append(
            Picture(
                svg=as_svg.render_graph(graph),
                alt=f"{title}: {format_counted(len(graph.nodes), 'box', 'boxes')}",
            )
        )
    return Document(title=title, blocks=(*blocks, _build_table(graph)))


def _sum_kept(graph: Graph) -> dict[str, int]:
    total: dict[str, int] = {}
    for saved in graph.saved:
        total[saved.kind] = total.get(saved.kind, 0) + saved.nbytes
    return total


def _build_table(graph: Graph) -> Table:
    sources: dict[int, list[int]] = {}
    for edge in graph.edges:
        sources.setdefault(edge.end, []).append(edge.start)
    rows = [
        Row(
            cells=(
                node.id,
                labels.write_title(node),
                node.name if labels.write_title(node) != node.name else node.module or None,
                labels.describe_form(node) if node.shape is not None else None,
                node.saved_bytes or None,
                ", ".join(map(str, sources.get(node.id, ()))) or None,
                ", ".join(node.marks) or None,
            )
        )
        for node in graph.nodes
    ]
    columns = (
        Column(name="#", align="right", unit="count"),
        Column(name="box"),
        Column(name="kind", priority=2),
        Column(name="shape", priority=1),
        Column(name="keeps", align="right", unit="bytes", priority=3),
        Column(name="from"),
        Column(name="marks", priority=4),
    )
    told = [
        i for i in range(len(columns)) if i < 2 or any(row.cells[i] is not None for row in rows)
    ]
    return Table(
        title="Boxes in the order of the forward pass",
        columns=tuple(columns[i] for i in told),
        rows=tuple(Row(cells=tuple(row.cells[i] for i in told)) for row in rows),
    )


def fold_large(graph: Graph) -> Graph:
    """A graph that a person can follow: what is larger is folded, and says so."""
    if len(graph.nodes) <= (OPERATIONS_DRAWN if graph.view == "autograd" else BOXES):
        return graph
    folded = graph.collapse()
    note = (
        f"{len(graph.nodes)} nodes are shown as {len(folded.nodes)} boxes; graph.collapse(depth) "
        "shows more, DOT and JSON have all of them"
    )
    return replace(folded, notes=(*folded.notes, note))
