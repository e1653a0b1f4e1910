"""The formats that a graph can be had in, one entry each: its name, its endings, and what writes
it.

A writer imports what it draws with when it is called: the command line reads this list for its
help, which answers at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnprobe.errors import UnknownNameError, suggest

if TYPE_CHECKING:
    from cnnprobe.graph import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFormat:
    """How one format is written, and which files hold it."""

    suffixes: tuple[str, ...]
    write: "Callable[[Graph], str] | None" = None  # None: bytes that only Graphviz makes


def _write_text(graph: "Graph") -> str:
    from cnnprobe.document.layout.graphs import fold_large, lay_out_graph
    from cnnprobe.document.render import render

    return render(lay_out_graph(fold_large(graph), picture=False), "text")


def _write_svg(graph: "Graph") -> str:
    from cnnprobe.document.layout.graphs import fold_large
    from cnnprobe.document.render import as_svg

    return as_svg.render_graph(fold_large(graph))


def _write_dot(graph: "Graph") -> str:
    from cnnprobe.document.render import as_dot

    return as_dot.render_graph(graph)


def _write_mermaid(graph: "Graph") -> str:
    from cnnprobe.document.layout.graphs import fold_large
    from cnnprobe.document.render import as_mermaid

    return as_mermaid.render_graph(fold_large(graph))


def _write_json(graph: "Graph") -> str:
    from cnnprobe.records import schema

    return schema.to_text("Graph", schema.to_plain(graph))


def _write_html(graph: "Graph") -> str:
    from cnnprobe.document.layout.graphs import fold_large, lay_out_graph
    from cnnprobe.document.render import render

    return render(lay_out_graph(fold_large(graph)), "html")


GRAPH_FORMATS: Mapping[str, GraphFormat] = {
    "text": GraphFormat(suffixes=(".txt",), write=_write_text),
    "svg": GraphFormat(suffixes=(".svg",), write=_write_svg),
    "dot": GraphFormat(suffixes=(".dot", ".gv"), write=_write_dot),
    "mermaid": GraphFormat(suffixes=(".mmd",), write=_write_mermaid),
    "markdown": GraphFormat(
        suffixes=(".md",), write=lambda graph: f"```mermaid\n{_write_mermaid(graph)}```\n"
    ),
    "json": GraphFormat(suffixes=(".json",), write=_write_json),
    "html": GraphFormat(suffixes=(".html",), write=_write_html),
    "png": GraphFormat(suffixes=(".png",)),
    "pdf": GraphFormat(suffixes=(".pdf",)),
}


def list_text_formats() -> tuple[str, ...]:
    """The names of the formats that are text, which `Graph.to` takes.

    >>> "png" in list_text_formats()
    False
    """
    return tuple(name for name, form in GRAPH_FORMATS.items() if form.write is not None)


def list_suffixes() -> tuple[str, ...]:
    """The endings of the files that a graph can be saved in."""
    return tuple(suffix for form in GRAPH_FORMATS.values() for suffix in form.suffixes)


def find_format(path: Path, *, where: str) -> str:
    """The format that a file name's ending tells.

    Raises:
        UnknownNameError: no format has this ending; `where` says who asked.

    >>> find_format(Path("net.GV"), where="-o")
    'dot'
    """
    suffix = path.suffix.lower()
    for name, form in GRAPH_FORMATS.items():
        if suffix in form.suffixes:
            return name
    raise UnknownNameError(
        f"no graph format has the suffix {path.suffix!r}",
        where=where,
        fix=suggest(path.suffix, list_suffixes()),
    )
