"""A graph as DOT, to be committed and compared: the same graph gives the same text, and a new layer changes only its own lines.

Boxes are called by module, call and operation, never by a number of the process or a place in the list. The graphviz package
writes the frame; the lines of boxes are written here, since its quoting takes three quarters of the time on large graphs.
"""

from collections.abc import Iterator
from typing import Any

import graphviz

from cnnprobe.graph import BLOCKS, FUNCTION, INPUT, MODULE, MORE, OPERATION, PARAMETER, Graph, Node
from cnnprobe.render import labels
from cnnprobe.render.units import inert

_SHAPES = {
    FUNCTION: 'style="rounded,filled"', INPUT: "shape=ellipse style=filled", PARAMETER: 'style="dashed,filled"', BLOCKS: "shape=box3d style=filled",
    MORE: "style=dashed",
}  # fmt: skip
_GROUNDS = {
    "convolution": "#dbe6fb", "normalisation": "#e9e2f8", "activation": "#fae8d5", "pooling": "#d5efec", "linear": "#f6dbe8",
    "attention": "#f6dbe8", "joining": "#d9f0de", "input": "#d9f0de", "parameter": "#f6efd3",
}  # fmt: skip


def render_graph(graph: Graph) -> str:
    r"""The graph as DOT text, one box and one line of the graph a line of text.

    >>> print(render_graph(Graph(nodes=(Node(0, "ReLU", "module", "relu", shape=(1, 8), dtype="float32"),))))
    digraph {
        graph [rankdir=TB]
        node [fillcolor="#eceef2" fontname=monospace fontsize=11 shape=box style=filled]
        edge [arrowsize=0.7]
        "relu#0" [label="relu\nReLU\n(1, 8)" style=filled fillcolor="#fae8d5" class="module activation"]
    }
    <BLANKLINE>
    """
    frame = graphviz.Digraph(
        graph_attr={"rankdir": "TB"},
        node_attr={"fontname": "monospace", "fontsize": "11", "shape": "box", "style": "filled", "fillcolor": "#eceef2"},
        edge_attr={"arrowsize": "0.7"},
    )
    names = _names(graph)
    frame.body.extend(_boxes(graph, names))
    frame.body.extend([f"\t{names[edge.start]} -> {names[edge.end]}\n" for edge in graph.edges])
    return str(frame.source).expandtabs(4)


def quoted(text: str) -> str:
    r"""A DOT string; what could end it, start an escape or upset a terminal is made harmless.

    >>> print(quoted('a"b\\c'))
    "a\"b\\c"
    """
    if not (text.isascii() and text.isprintable()):
        text = "\n".join(map(inert, text.split("\n")))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _names(graph: Graph) -> list[str]:
    """Names of the boxes: fqn and call of a module, and the operation's name where it is not the call itself (see `difference.keys`)."""
    has_calls = bool(graph.calls)
    known: dict[tuple[str | None, int, str], list[Any]] = {}  # what a name begins with, and how many have it
    found: list[str] = []
    for node in graph.nodes:
        stem = (node.module, node.call, node.parameter or node.name)
        begun = known.get(stem)
        if begun is None:
            begun = known[stem] = [_beginning(*stem, has_calls=has_calls), -1]
        begun[1] += 1
        found.append(
            quoted(f"{node.module}#{node.call}") if node.kind == MODULE and node.module and not begun[1] else f'"{begun[0]}.{begun[1]}"'
        )
    return found


def _beginning(module: str | None, call: int, name: str, *, has_calls: bool) -> str:
    stem = "" if module is None and not has_calls else f"{module or ''}#{call}"
    return quoted(f"{stem}/{name}")[1:-1]


def _boxes(graph: Graph, names: list[str]) -> Iterator[str]:
    plain: dict[tuple[object, ...], str] = {}  # operations alike: a graph has few kinds of lines
    for node, name in zip(graph.nodes, names, strict=True):
        if node.kind != OPERATION:
            yield f"\t{name} {_attributes(node)}\n"
            continue
        key = node[1:]
        text = plain.get(key)
        if text is None:
            text = plain[key] = _attributes(node)
        yield f"\t{name} {text}\n"


def _attributes(node: Node) -> str:
    family = labels.family(node)
    lines = "\n".join((labels.title(node), *labels.details(node)))
    ground = f' fillcolor="{_GROUNDS[family]}"' if family in _GROUNDS else ""
    return f'[label={quoted(lines)} {_SHAPES.get(node.kind, "style=filled")}{ground} class="{node.kind} {family}"]'
