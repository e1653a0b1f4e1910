"""A graph as text in one of its formats, and in a file: pictures that Graphviz lays out, too."""

from collections.abc import Mapping
from pathlib import Path

from cnnprobe.document.graph_formats import GRAPH_FORMATS, find_format, list_text_formats
from cnnprobe.document.layout.graphs import fold_large
from cnnprobe.document.render import as_dot, engines
from cnnprobe.errors import UnknownNameError, UsageError, suggest
from cnnprobe.graph import Graph

_ENGINES: Mapping[str, tuple[str, ...]] = {
    "own": (),
    "auto": engines.ENGINES,
    **{engine: (engine,) for engine in engines.ENGINES},
}


def render_graph(graph: Graph, format: str) -> str:  # noqa: A002 - the word users type
    """The graph in one of the `list_text_formats()`.

    Raises:
        UnknownNameError: there is no such format.
    """
    write = GRAPH_FORMATS[format].write if format in GRAPH_FORMATS else None
    if write is None:
        raise UnknownNameError(
            f"no graph format named {format!r}",
            where="Graph.to",
            fix=suggest(format, list_text_formats()),
        )
    return write(graph)


def save_graph(
    graph: Graph, path: str | Path, *, engine: str = "own", limit: float = engines.LIMIT
) -> tuple[str, ...]:
    """Write the graph in the format that the name's ending tells; what failed of what was asked
    for, if another took over.

    Args:
        graph: what is written.
        path: the file.
        engine: who lays out SVG. "own" is this package's, the same on every machine; "dot" and
            "pygraphviz" are asked first, and "auto" asks one after the other; our own takes over
            from all of them. PNG and PDF are only made by Graphviz.
        limit: seconds that each engine may take.

    Raises:
        UnknownNameError: no format has this ending, or there is no such engine.
        UsageError: PNG or PDF was asked for, and Graphviz is not there or was not in time.
    """
    target = Path(path)
    form = find_format(target, where=str(target))
    drawn = _draw(graph, form, engine, limit)
    if drawn.picture is not None:
        target.write_bytes(drawn.picture)
    elif GRAPH_FORMATS[form].write is None:
        fix = "install Graphviz or `pip install pygraphviz`, or write .svg, which needs neither"
        raise UsageError(
            f"no engine made a {form}: {'; '.join(drawn.failures)}", where=str(target), fix=fix
        )
    else:
        target.write_text(render_graph(graph, form), encoding="utf-8")
    return drawn.failures


def _draw(graph: Graph, form: str, engine: str, limit: float) -> engines.Drawn:
    """The picture that Graphviz makes, where it is asked for one."""
    if engine not in _ENGINES:
        raise UnknownNameError(
            f"no engine named {engine!r}", where="save_graph", fix=suggest(engine, _ENGINES)
        )
    asked = _ENGINES[engine] if form == "svg" else ()
    if GRAPH_FORMATS[form].write is None:
        asked = _ENGINES[engine] or engines.ENGINES
    if not asked:
        return engines.Drawn(None)
    return engines.draw(as_dot.render_graph(fold_large(graph)), form, engines=asked, limit=limit)
