"""A graph as DOT, to be committed and compared: the same graph gives the same text, and a new layer
changes only its own lines.

Boxes are called by module, call and operation, never by a number of the process or a place in the
list. The graphviz package writes the frame; the lines of boxes are written here, since its quoting
takes three quarters of the time on large graphs.
"""

import functools
from typing import NamedTuple

import graphviz

from cnnprobe.document.render import labels
from cnnprobe.document.render.units import make_inert
from cnnprobe.graph import BLOCKS, FUNCTION, INPUT, MODULE, MORE, OPERATION, PARAMETER, Graph, Node

_SHAPES = {
    FUNCTION: 'style="rounded,filled"', INPUT: "shape=ellipse style=filled",
    PARAMETER: 'style="dashed,filled"', BLOCKS: "shape=box3d style=filled",
    MORE: "style=dashed",
}  # fmt: skip
_GROUNDS = {
    "convolution": "#dbe6fb", "normalisation": "#e9e2f8", "activation": "#fae8d5",
    "pooling": "#d5efec", "linear": "#f6dbe8", "attention": "#f6dbe8", "joining": "#d9f0de",
    "input": "#d9f0de", "parameter": "#f6efd3",
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
    """  # noqa: E501
    frame = graphviz.Digraph(
        graph_attr={"rankdir": "TB"},
        node_attr={
            "fontname": "monospace",
            "fontsize": "11",
            "shape": "box",
            "style": "filled",
            "fillcolor": "#eceef2",
        },
        edge_attr={"arrowsize": "0.7"},
    )
    names, boxes = _write_boxes(graph)
    lines = [f"    {names[start]} -> {names[end]}\n" for start, end, _, _ in graph.edges]
    frame.body.append("".join(boxes + lines))
    return str(frame.source).replace("\n\t", "\n    ", 3)  # the three lines of the frame


def quote(text: str) -> str:
    r"""A DOT string; what could end it, start an escape or upset a terminal is made harmless.

    >>> print(quote('a"b\\c'))
    "a\"b\\c"
    """
    if not (text.isascii() and text.isprintable()):
        text = "\n".join(map(make_inert, text.split("\n")))
    elif '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


class _Owner(NamedTuple):
    """A module call, as the boxes of what was made in it need it: quoted."""

    begin: str  # of their names, "layer1.0.conv1#0"
    inside: str  # the second line of their labels
    counts: dict[str, int]  # how many of each operation it has had so far


def _write_boxes(graph: Graph) -> tuple[list[str], list[str]]:
    """Names of the boxes, and their lines.

    A box is called by fqn and call of its module, and the operation's name where it is not the call
    itself (see `difference.keys`).
    Whatever many boxes have in common is quoted once: on large graphs most of the time goes by
    here.
    """
    owners: dict[tuple[str | None, int], _Owner] = {}
    looks: dict[tuple[object, ...], tuple[str, str, str]] = {}
    names: list[str] = []
    lines: list[str] = []
    add_name, add_line = names.append, lines.append
    last: tuple[str | None, int] | None = None
    for node in graph.nodes:
        _, operation, kind, module, call, _, shape, dtype, parameter, kept, marks, _ = node
        if (
            last is None or call != last[1] or module != last[0]
        ):  # most are of the module of the one before
            last = (module, call)
            begin, inside, counts = owners.get(last) or owners.setdefault(
                last, _describe_owner(module, call, has_calls=bool(graph.calls))
            )
        key = (operation, kind, shape, dtype, kept, marks)
        called, fact, ending = looks.get(key) or looks.setdefault(key, _choose_look(node))
        further = inside
        if parameter is not None:
            called, further = quote(parameter)[1:-1], ""
        count = counts[called] = counts.get(called, -1) + 1
        name = (
            f'"{begin}/{called}.{count}"' if kind != MODULE or not module or count else f'"{begin}"'
        )
        add_name(name)
        if kind != OPERATION and parameter is None:
            called, further = (
                quote(labels.write_title(node))[1:-1],
                "".join(map(_add_line, labels.describe_place(node))),
            )
        add_line(f'    {name} [label="{called}{further}{fact}" {ending}]\n')
    return names, lines


def _describe_owner(module: str | None, call: int, *, has_calls: bool) -> _Owner:
    if module is None:
        return _Owner(begin=f"#{call}" if has_calls else "", inside="", counts={})
    name, told = _quote_module(module)
    repeat = labels.write_repeat(call)
    return tuple.__new__(_Owner, (f"{name}#{call}", f"{told}{repeat}", {}))


@functools.lru_cache(maxsize=4096)
def _quote_module(module: str) -> tuple[str, str]:
    """A module's name, and the line that says that something was made in it: of its first call."""
    return quote(module)[1:-1], "".join(map(_add_line, labels.describe_module(module, 0)))


def _choose_look(node: Node) -> tuple[str, str, str]:
    """Of a box the quoted name of its operation, the last lines of its label, and the ending of its
    line.
    """
    family = labels.find_family(node)
    ground = f' fillcolor="{_GROUNDS[family]}"' if family in _GROUNDS else ""
    ending = f'{_SHAPES.get(node.kind, "style=filled")}{ground} class="{node.kind} {family}"'
    return quote(node.name)[1:-1], "".join(map(_add_line, labels.list_facts(node))), ending


def _add_line(line: str) -> str:
    """One more line of a label."""
    return "\\n" + quote(line)[1:-1]
