"""What is shown of a graph: a picture, a table of its boxes, and its notes; and a graph in each of its formats."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cnnprobe.document.render import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Notice,
    Picture,
    Row,
    Table,
    as_dot,
    as_mermaid,
    as_svg,
    engines,
    labels,
    render,
)
from cnnprobe.document.render.units import format_size
from cnnprobe.errors import UnknownNameError, UsageError, suggest
from cnnprobe.graph import Graph
from cnnprobe.graph.folding import BOXES
from cnnprobe.records import schema

OPERATIONS_DRAWN = 500  # of autograd's own view; beyond it a picture is folded to modules
_SUFFIXES = {
    ".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".md": "markdown", ".txt": "text", ".json": "json", ".html": "html",
    ".png": "png", ".pdf": "pdf",
}  # fmt: skip
_BINARY = ("png", "pdf")
_ENGINES: Mapping[str, tuple[str, ...]] = {
    "own": (),
    "auto": engines.ENGINES,
    **{engine: (engine,) for engine in engines.ENGINES},
}


def lay_out_graph(graph: Graph, *, picture: bool = True) -> Document:
    """The picture of a graph, its boxes as a table, and what could not be observed."""
    title = f"Graph of {graph.title}" if graph.title else "Graph"
    facts = [("boxes", f"{len(graph.nodes)}"), ("lines", f"{len(graph.edges)}")]
    if graph.saved:
        facts += [(f"kept {kind}s", format_size(total)) for kind, total in _sum_kept(graph).items()]
    blocks: list[Block] = [Heading(text=title, level=1), Facts(pairs=tuple(facts))]
    blocks += [Notice(severity="info", text=note) for note in graph.notes]
    if picture:
        blocks.append(
            Picture(svg=as_svg.render_graph(graph), alt=f"{title}: {len(graph.nodes)} boxes")
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


# ---------------------------------------------------------------- formats


def _fold_large(graph: Graph) -> Graph:
    """A graph that a person can follow: what is larger is folded, and says so."""
    if len(graph.nodes) <= (OPERATIONS_DRAWN if graph.view == "autograd" else BOXES):
        return graph
    folded = graph.collapse()
    note = f"{len(graph.nodes)} nodes are shown as {len(folded.nodes)} boxes; graph.collapse(depth) opens more, DOT and JSON have all"
    return replace(folded, notes=(*folded.notes, note))


_FORMATS: Mapping[str, Callable[[Graph], str]] = {
    "dot": as_dot.render_graph,
    "html": lambda graph: render(lay_out_graph(_fold_large(graph)), "html"),
    "json": lambda graph: schema.to_text("Graph", schema.to_plain(graph)),
    "markdown": lambda graph: f"```mermaid\n{as_mermaid.render_graph(_fold_large(graph))}```\n",
    "mermaid": lambda graph: as_mermaid.render_graph(_fold_large(graph)),
    "svg": lambda graph: as_svg.render_graph(_fold_large(graph)),
    "text": lambda graph: render(lay_out_graph(_fold_large(graph), picture=False), "text"),
}


def list_graph_formats() -> tuple[str, ...]:
    """The names of the formats in which a graph can be had."""
    return tuple(_FORMATS)


def list_graph_suffixes() -> Mapping[str, str]:
    """File name ending to format, those that need Graphviz too."""
    return _SUFFIXES


def render_graph(graph: Graph, format: str) -> str:  # noqa: A002 - the word users type
    """The graph in one of the `list_graph_formats()`.

    Raises:
        UnknownNameError: there is no such format.
    """
    if format not in _FORMATS:
        raise UnknownNameError(
            f"no graph format named {format!r}", where="Graph.to", fix=suggest(format, _FORMATS)
        )
    return _FORMATS[format](graph)


def save_graph(
    graph: Graph, path: str | Path, *, engine: str = "own", limit: float = engines.LIMIT
) -> tuple[str, ...]:
    """Write the graph in the format that the name's ending tells; what failed of what was asked for, if another took over.

    Args:
        graph: what is written.
        path: the file.
        engine: who lays out SVG. "own" is this package's, the same on every machine; "dot" and "pygraphviz" are asked first, and
            "auto" asks one after the other; our own takes over from all of them. PNG and PDF are only made by Graphviz.
        limit: seconds that each engine may take.

    Raises:
        UnknownNameError: no format has this ending, or there is no such engine.
        UsageError: PNG or PDF was asked for, and Graphviz is not there or was not in time.
    """
    target = Path(path)
    form = _SUFFIXES.get(target.suffix.lower())
    if form is None:
        raise UnknownNameError(
            f"no graph format has the suffix {target.suffix!r}",
            where=str(target),
            fix=suggest(target.suffix, _SUFFIXES),
        )
    if engine not in _ENGINES:
        raise UnknownNameError(
            f"no engine named {engine!r}", where="save_graph", fix=suggest(engine, _ENGINES)
        )
    asked = (
        _ENGINES[engine]
        if form == "svg"
        else (_ENGINES[engine] or engines.ENGINES)
        if form in _BINARY
        else ()
    )
    drawn = (
        engines.draw(as_dot.render_graph(_fold_large(graph)), form, engines=asked, limit=limit)
        if asked
        else engines.Drawn(None)
    )
    if drawn.picture is not None:
        target.write_bytes(drawn.picture)
    elif form in _BINARY:
        fix = "install Graphviz or `pip install pygraphviz`, or write .svg, which needs neither"
        raise UsageError(
            f"no engine made a {form}: {'; '.join(drawn.failures)}", where=str(target), fix=fix
        )
    else:
        target.write_text(render_graph(graph, form), encoding="utf-8")
    return drawn.failures
