"""A graph as Mermaid, which GitHub, GitLab and many wikis draw from Markdown."""

from collections.abc import Iterator

from cnnprobe.document.render import labels
from cnnprobe.graph import BLOCKS, FUNCTION, INPUT, PARAMETER, Graph, Node

_OUTLINES = {
    FUNCTION: ("([", "])"),
    INPUT: ("([", "])"),
    PARAMETER: ("[/", "/]"),
    BLOCKS: ("[[", "]]"),
}


def render_graph(graph: Graph) -> str:
    """The graph as a Mermaid flowchart.

    >>> print(render_graph(Graph(nodes=(Node(0, "ReLU", "module", "relu", shape=(1, 8)),))), end="")
    flowchart TD
        n0["relu<br/>ReLU<br/>(1, 8)"]
    """
    return "\n".join(["flowchart TD", *_write_lines(graph)]) + "\n"


def _write_lines(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        opening, closing = _OUTLINES.get(node.kind, ("[", "]"))
        yield f'    n{node.id}{opening}"{_write_label(node)}"{closing}'
    for edge in graph.edges:
        yield f"    n{edge.start} --> n{edge.end}"


def _write_label(node: Node) -> str:
    return "<br/>".join(
        escape(labels.shorten(line))
        for line in (labels.write_title(node), *labels.list_details(node))
    )


def escape(text: str) -> str:
    """Text for a quoted label: whatever Mermaid or HTML could read as its own becomes a character
    code.

    >>> escape('<b>"x"')
    '#60;b#62;#34;x#34;'
    """
    return "".join(
        character if character.isalnum() or character in " .,:()_-/×…" else f"#{ord(character)};"
        for character in text
    )
