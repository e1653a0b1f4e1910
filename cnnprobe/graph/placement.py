"""A layered layout: where the boxes stand and how the lines between them run. Linear, and no binary
is needed.

Boxes go into layers by their longest path. A value that is used further down gets one trunk through
the layers between, from which all its users branch off, so that dense connections stay countable
(dot gives every edge a row of its own, which takes it more than a minute for densenet121).
Barycentre sweeps put each layer in order; then every box is drawn as near to the middle of its
neighbours as the others in its layer let it (isotonic regression).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]

_SWEEPS = 4  # down and up; more changed no picture that was looked at
_SETTLES = 6
_BETWEEN = 26.0  # between two boxes of a layer
_LANE = 14.0  # between two lines, or a line and a box
_STRAIGHT = 8.0  # how much more a trunk resists bending than a box moving
# points of trunks that a box may have on average; a graph with more gets its longest lines drawn
# straight
_TRUNKS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Middles of the boxes and courses of the edges, in the order in which they were given; y grows
    downwards.
    """

    width: float
    height: float
    middles: tuple[Point, ...]
    routes: tuple[tuple[Point, ...], ...]


def place_boxes(
    sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], *, gap: float = 34.0
) -> Placement:
    """Lays out boxes and the lines between them.

    Args:
        sizes: width and height of each box; each stands after those that it depends on.
        edges: (start, end), positions of boxes; one that runs backwards is drawn and else left out
            of account.
        gap: height between two layers.

    >>> found = place_boxes([(10, 10), (10, 10), (10, 10)], [(0, 1), (0, 2)])
    >>> [y for _, y in found.middles]
    [5.0, 49.0, 49.0]
    """
    layer = _assign_layers(len(sizes), edges)
    net = _Net(sizes, layer, edges)
    _sort(net)
    x = _place_columns(net)
    rows = tops, bottoms = _place_rows(net, gap)
    low = min((x[v] - net.width[v] / 2 for v in range(len(x))), default=0.0)
    x = [value - low for value in x]
    middles = tuple((x[v], (tops[layer[v]] + bottoms[layer[v]]) / 2) for v in range(len(sizes)))
    ends = [
        (middle[1] - height / 2, middle[1] + height / 2)
        for middle, (_, height) in zip(middles, sizes, strict=True)
    ]
    return Placement(
        width=max((x[v] + net.width[v] / 2 for v in range(len(x))), default=0.0),
        height=bottoms[-1] if bottoms else 0.0,
        middles=middles,
        routes=_draw_routes(net, edges, x, rows, ends),
    )


def _assign_layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    layer = [0] * count
    below: list[list[int]] = [[] for _ in range(count)]
    inputs = [0] * count
    for start, end in edges:
        if start < end:
            below[start].append(end)
            inputs[end] += 1
    for node in range(count):
        further = layer[node] + 1
        for other in below[node]:
            if layer[other] < further:  # noqa: PLR1730 - a call of max() takes three times as long
                layer[other] = further
    for node in range(
        count - 1, -1, -1
    ):  # what has one input or none stands just above its first user: one long line, not two
        if inputs[node] < 2 and below[node]:
            layer[node] = min([layer[other] for other in below[node]]) - 1
    return layer


class _Net:
    """Boxes and the points of the trunks, with lines between neighbouring layers only."""

    def __init__(
        self,
        sizes: Sequence[tuple[float, float]],
        layer: Sequence[int],
        edges: Sequence[tuple[int, int]],
    ) -> None:
        self.boxes = len(sizes)
        self.heights = [height for _, height in sizes]
        self.width = [width for width, _ in sizes]
        self.layer = list(layer)
        self.up: list[list[int]] = [[] for _ in sizes]
        self.down: list[list[int]] = [[] for _ in sizes]
        self.trunk: dict[int, list[int]] = {}  # of a box: its points in the layers below
        reach: dict[int, int] = {}
        for start, end in edges:
            if layer[start] < layer[end]:
                reach[start] = max(reach.get(start, 0), layer[end] - layer[start] - 1)
        left = _TRUNKS * len(sizes) + 1_000
        for box in sorted(reach, key=lambda box: (reach[box], box)):
            left -= reach[box]
            if left < 0:
                break
            self.trunk[box] = self._grow(box, reach[box])
        for start, end in edges:
            span = layer[end] - layer[start]
            if span >= 1 and start in self.trunk:
                self._join(self.trunk[start][span - 2] if span > 1 else start, end)
        self.rows: list[list[int]] = [[] for _ in range(max(self.layer, default=-1) + 1)]
        for vertex, at in enumerate(self.layer):
            self.rows[at].append(vertex)

    def _grow(self, box: int, count: int) -> list[int]:
        points = []
        last = box
        for step in range(count):
            point = len(self.layer)
            self.layer.append(self.layer[box] + step + 1)
            self.width.append(0.0)
            self.up.append([])
            self.down.append([])
            self._join(last, point)
            points.append(point)
            last = point
        return points

    def _join(self, a: int, b: int) -> None:
        self.down[a].append(b)
        self.up[b].append(a)


def _sort(net: _Net) -> None:
    """Put the vertices of each layer in an order with few crossings."""
    place_of = [0.0] * len(net.layer)
    for row in net.rows:
        for i, vertex in enumerate(row):
            place_of[vertex] = float(i)
    if all(len(row) < 2 for row in net.rows):
        return
    best, fewest = [list(row) for row in net.rows], None
    for sweep in range(2 * _SWEEPS):
        downwards = sweep % 2 == 0
        near = net.up if downwards else net.down
        for row in net.rows if downwards else reversed(net.rows):
            if len(row) < 2:
                continue
            wanted = {vertex: _compute_mean(near[vertex], place_of, vertex) for vertex in row}
            row.sort(key=wanted.__getitem__)
            for i, vertex in enumerate(row):
                place_of[vertex] = float(i)
        crossings = _count_crossings(net, place_of)
        if fewest is None or crossings < fewest:
            best, fewest = [list(row) for row in net.rows], crossings
        if fewest == 0:
            break
    net.rows = best


def _compute_mean(near: Sequence[int], place_of: Sequence[float], vertex: int) -> float:
    return sum([place_of[other] for other in near]) / len(near) if near else place_of[vertex]


def _count_crossings(net: _Net, place_of: Sequence[float]) -> int:
    """How many pairs of lines cross, counted by insertion from layer to layer."""
    total = 0
    for row in net.rows:
        ends = [place_of[w] for v in row for w in sorted(net.down[v], key=place_of.__getitem__)]
        total += _count_inversions(ends)
    return total


def _count_inversions(values: Sequence[float]) -> int:
    tree = [0] * (int(max(values, default=0)) + 2)
    total = 0
    for seen, value in enumerate(values):
        at = int(value) + 1
        total += seen
        while at > 0:
            total -= tree[at]
            at -= at & -at
        at = int(value) + 1
        while at < len(tree):
            tree[at] += 1
            at += at & -at
    return total


def _place_columns(net: _Net) -> list[float]:
    """Where every vertex stands from left to right."""
    x = [0.0] * len(net.layer)
    gaps = []
    for row in net.rows:
        gaps.append([_measure_gap(net, a, b) for a, b in pairwise(row)])
        at = -sum(gaps[-1]) / 2
        for i, vertex in enumerate(row):
            x[vertex] = at
            at += gaps[-1][i] if i < len(gaps[-1]) else 0.0
    for settle in range(_SETTLES):
        downwards = settle % 2 == 0
        for at in range(len(net.rows)) if downwards else range(len(net.rows) - 1, -1, -1):
            row = net.rows[at]
            wanted, weights = [], []
            for vertex in row:
                near = net.up[vertex] if downwards else net.down[vertex]
                near = near or (net.down[vertex] if downwards else net.up[vertex])
                wanted.append(sum([x[other] for other in near]) / len(near) if near else x[vertex])
                weights.append(_STRAIGHT if vertex >= net.boxes else 1.0 + len(near))
            for vertex, value in zip(row, _spread_out(wanted, weights, gaps[at]), strict=True):
                x[vertex] = value
    return x


def _measure_gap(net: _Net, a: int, b: int) -> float:
    """Distance that the middles of two neighbours keep."""
    between = _BETWEEN if a < net.boxes and b < net.boxes else _LANE
    return (net.width[a] + net.width[b]) / 2 + between


def _spread_out(
    wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]
) -> list[float]:
    """The places nearest to the wanted ones (least squares) that keep the order and the gaps: pool
    adjacent violators.
    """
    if len(wanted) == 1:
        return list(wanted)
    shifts = [0.0]
    for gap in gaps:
        shifts.append(shifts[-1] + gap)
    pools: list[list[float]] = []  # mean, weight, members
    for value, weight, shift in zip(wanted, weights, shifts, strict=True):
        pool = [value - shift, weight, 1]
        while pools and pools[-1][0] > pool[0]:
            mean, other, members = pools.pop()
            pool = [
                (mean * other + pool[0] * pool[1]) / (other + pool[1]),
                other + pool[1],
                members + pool[2],
            ]
        pools.append(pool)
    placed = [mean for mean, _, members in pools for _ in range(int(members))]
    return [value + shift for value, shift in zip(placed, shifts, strict=True)]


def _place_rows(net: _Net, gap: float) -> tuple[list[float], list[float]]:
    """Top and bottom of every layer."""
    tops, bottoms, y = [], [], 0.0
    for row in net.rows:
        height = max((net.heights[vertex] for vertex in row if vertex < net.boxes), default=0.0)
        tops.append(y)
        bottoms.append(y + height)
        y += height + gap
    return tops, bottoms


def _draw_routes(
    net: _Net,
    edges: Sequence[tuple[int, int]],
    x: Sequence[float],
    rows: tuple[Sequence[float], Sequence[float]],
    ends: Sequence[Point],
) -> tuple[tuple[Point, ...], ...]:
    """Course of each edge: out at the bottom (`ends[start][1]`), down its trunk, in at the top
    (`ends[end][0]`) beside the others.
    """
    tops, bottoms = rows
    routes = []
    for (start, end), (k, count) in zip(edges, _order_arrivals(net, edges, x), strict=True):
        points = [(x[start], ends[start][1])]
        span = net.layer[end] - net.layer[start]
        if start in net.trunk and span > 1:
            for point in net.trunk[start][: span - 1]:
                at = net.layer[point]
                points += [(x[point], tops[at]), (x[point], bottoms[at])]
        width = min(net.width[end] * 0.7, 24.0 * (count - 1))
        offset = width * (k / (count - 1) - 0.5) if count > 1 else 0.0
        points.append((x[end] + offset, ends[end][0]))
        routes.append(tuple(points))
    return tuple(routes)


def _order_arrivals(
    net: _Net, edges: Sequence[tuple[int, int]], x: Sequence[float]
) -> list[tuple[int, int]]:
    """For each edge: the how many-th from the left it is of those that arrive at its box, and of
    how many.
    """
    arriving: dict[int, list[int]] = {}
    for i, (_, end) in enumerate(edges):
        arriving.setdefault(end, []).append(i)
    found = [(0, 1)] * len(edges)
    for members in arriving.values():
        for k, i in enumerate(sorted(members, key=lambda i: (_find_last(net, edges[i], x), i))):
            found[i] = (k, len(members))
    return found


def _find_last(net: _Net, edge: tuple[int, int], x: Sequence[float]) -> float:
    """Where the vertex stands from which an edge reaches its end."""
    start, end = edge
    span = net.layer[end] - net.layer[start]
    return x[net.trunk[start][span - 2]] if start in net.trunk and span > 1 else x[start]
