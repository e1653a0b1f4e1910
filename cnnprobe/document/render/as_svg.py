"""A graph as SVG, laid out and drawn by this package: no binary, no script, no id, legible on light
and dark ground.

Colours are tints over whatever lies below, lines and text take the page's own colour; the kind of a
box is told by its outline and its words too, never by colour alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise

from cnnprobe.document.render import labels
from cnnprobe.graph import BLOCKS, FUNCTION, INPUT, MORE, PARAMETER, Graph, Node
from cnnprobe.graph.placement import Placement, Point, place_boxes

_CHARACTER = 7.25  # px, width of a character in the 12 px monospace font
_LINE = 15.0
_PAD = 9.0
_MARGIN = 16.0
_LEAST = 64.0  # width of a box
_ARROW = 4.0
_TINTS = {
    "convolution": "#2f6fde", "normalisation": "#8a63d2", "activation": "#d9822b",
    "pooling": "#1a9e8f", "linear": "#c2417c", "attention": "#c2417c", "joining": "#2e9e44",
    "shape": "#7a869a", "parameter": "#b8941f", "input": "#2e9e44", "more": "#7a869a",
    "other": "#7a869a",
}  # fmt: skip
_STYLE = (
    ".cnnprobe-graph{color-scheme:light dark;font:12px "
    "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}"
    ".cnnprobe-graph .node:hover rect{stroke-width:2.5}"
)


def render_graph(graph: Graph, *, keys: Mapping[int, str] | None = None) -> str:
    """The graph as one SVG element that can stand in a file or in a page.

    Args:
        graph: what is drawn.
        keys: node id to the keys of the rows of a table that the box stands for: they become its
            `data-key`.
    """
    lines = [_list_lines(node) for node in graph.nodes]
    sizes = [_measure_box(line) for line in lines]
    placement = place_boxes(sizes, [(edge.start, edge.end) for edge in graph.edges])
    width, height = placement.width + 2 * _MARGIN, placement.height + 2 * _MARGIN
    label = escape(
        labels.shorten(
            (
                f"graph of {graph.title or 'the output'}: {len(graph.nodes)} boxes, "
                f"{len(graph.edges)} lines"
            ),
            200,
        )
    )
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" class="cnnprobe-graph" role="img" '
        f'aria-label="{label}" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="ui-monospace,Menlo,Consolas,\'DejaVu Sans Mono\',monospace" font-size="12" '
        'fill="currentColor">'
    )
    parts = [
        head,
        f"<style>{_STYLE}</style>",
        f'<g transform="translate({_MARGIN:.0f} {_MARGIN:.0f})">',
        *_draw_edges(placement),
        *(
            _draw_node(node, line, size, at, (keys or {}).get(node.id, ""))
            for node, line, size, at in zip(
                graph.nodes, lines, sizes, placement.middles, strict=True
            )
        ),
        "</g></svg>\n",
    ]
    return "\n".join(parts)


def _list_lines(node: Node) -> list[str]:
    return [labels.shorten(line) for line in (labels.write_title(node), *labels.list_details(node))]


def _measure_box(lines: Sequence[str]) -> Point:
    return max(_LEAST, max(map(labels.count_columns, lines)) * _CHARACTER + 2 * _PAD), len(
        lines
    ) * _LINE + 2 * _PAD - 4


def _draw_edges(placement: Placement) -> Iterator[str]:
    """Lines, each stretch that several values share drawn once, and an arrowhead at each end."""
    drawn: set[tuple[Point, Point]] = set()
    lines, heads = [], []
    for route in placement.routes:
        last: Point | None = None
        for a, b in pairwise(route):
            if (a, b) in drawn:
                continue
            drawn.add((a, b))
            if last != a:
                lines.append(f"M{a[0]:.1f} {a[1]:.1f}")
            middle = (a[1] + b[1]) / 2
            straight = abs(a[0] - b[0]) < 0.05
            lines.append(
                f"V{b[1]:.1f}"
                if straight
                else f"C{a[0]:.1f} {middle:.1f} {b[0]:.1f} {middle:.1f} {b[0]:.1f} {b[1]:.1f}"
            )
            last = b
        x, y = route[-1]
        heads.append(f"M{x:.1f} {y:.1f}l{-_ARROW:.0f} {-1.8 * _ARROW:.1f}h{2 * _ARROW:.0f}z")
    if lines:
        yield (
            '<path class="edge" fill="none" stroke="currentColor" stroke-opacity="0.6" '
            f'd="{"".join(lines)}"/>'
        )
        yield f'<path class="arrow" fill-opacity="0.75" d="{"".join(heads)}"/>'


def _draw_node(node: Node, lines: Sequence[str], size: Point, at: Point, key: str) -> str:
    family = labels.find_family(node)
    left, top = at[0] - size[0] / 2, at[1] - size[1] / 2
    tint = _TINTS[family]
    corner = {FUNCTION: size[1] / 2, INPUT: size[1] / 2, PARAMETER: 0.0}.get(node.kind, 5.0)
    dash = ' stroke-dasharray="5 4"' if node.kind in (PARAMETER, MORE) else ""
    box = (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}" '
        f'rx="{corner:.1f}" '
        f'fill="{tint}" fill-opacity="0.16" stroke="{tint}" stroke-width="1.3"{dash}/>'
    )
    if node.kind == BLOCKS:  # a pile of cards
        right, bottom = left + size[0], top + size[1]
        box += (
            f'<path d="M{left + 5:.1f} {bottom:.1f}v5H{right + 5:.1f}V{top + 5:.1f}h-5" '
            f'fill="none" stroke="{tint}" stroke-width="1.3"/>'
        )
    text = "".join(
        _draw_text(line, at[0], top + _PAD + 8 + i * _LINE, is_title=i == 0)
        for i, line in enumerate(lines)
    )
    joined = f' data-key="{escape(key)}"' if key else ""
    return (
        f'<g class="node {node.kind} '
        f'{family}"{joined}><title>{escape(labels.write_tooltip(node))}</title>{box}{text}</g>'
    )


def _draw_text(line: str, x: float, y: float, *, is_title: bool) -> str:
    weight = ' font-weight="600"' if is_title else ' fill-opacity="0.75"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle"{weight}>{escape(line)}</text>'
