"""Small drawings inside tables: how the values of a tensor lie, as SVG of a few hundred bytes that
needs no style and no script.

The axis is that of magnitudes: zero in the middle, powers of two to both sides, the same for all
rows of a table, so that one sees from row to row how values grow, vanish or die.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from cnnprobe.document.blocks import Spread, Table
from cnnprobe.document.render.units import format_percent, format_value
from cnnprobe.records.trace import Histogram

_HEIGHT = 16
_WIDTH = 100  # of the drawing in a table, in CSS pixels
_WIDEST = 40  # powers of two on each side; what is smaller or larger is drawn at the edge
_SEEN = 1e-3  # a bucket with a smaller share of its row has no say in how wide the axis is


@dataclass(frozen=True, slots=True)
class Axis:
    """Exponents of two that are shown, on both sides of zero: from `lowest` to below `highest`."""

    lowest: int
    highest: int

    @property
    def steps(self) -> int:
        """Buckets on each side."""
        return self.highest - self.lowest

    def step(self, exponent: int) -> int:
        """The bucket of an exponent, from 0 next to zero to `steps - 1` at the edge."""
        return min(max(exponent, self.lowest), self.highest - 1) - self.lowest

    def place(self, number: float) -> float:
        """Where a number lies; zero is at `steps + 0.5`."""
        magnitude = math.log2(abs(number)) - self.lowest if number else 0.0
        far = min(max(magnitude, 0.0), self.steps)
        return self.steps + 0.5 + math.copysign(far + 0.5 if number else 0.0, number)


def fit_axis(table: Table) -> Axis:
    """The axis on which all spreads of the table can be seen."""
    found = [
        e
        for row in table.rows
        for cell in row.cells
        if isinstance(cell, Spread)
        for e in _find_exponents(cell)
    ]
    if not found:
        return Axis(0, 1)
    highest = max(found) + 1
    return Axis(max(min(found), highest - _WIDEST), highest)


def _find_exponents(spread: Spread) -> Iterator[int]:
    histogram = spread.histogram
    if histogram is None:
        return (
            math.frexp(x)[1] - 1
            for x in (spread.minimum, spread.maximum, spread.std)
            if x and math.isfinite(x)
        )
    both = [a + b for a, b in zip(histogram.negative, histogram.positive, strict=True)]
    whole = sum(both)
    return (histogram.lowest + k for k, n in enumerate(both) if n > _SEEN * whole)


def describe_spread(spread: Spread) -> str:
    """The same for those who do not see it."""
    zeros = f", {format_percent(spread.zeros)} zeros" if spread.zeros else ""
    return (
        f"{format_value(spread.minimum)} to {format_value(spread.maximum)}, mean "
        f"{format_value(spread.mean)}, std {format_value(spread.std)}{zeros}"
    )


def draw_spread(spread: Spread, axis: Axis, *, framed: bool = True) -> str:
    """The histogram, or without one the range with mean and standard deviation; at zero a bar for
    the share of exact zeros.

    Args:
        spread: what is drawn.
        axis: the magnitudes from edge to edge.
        framed: whether it says its size, its colour and its ground line itself. Where thousands
            stand below each other a style does it.
    """
    wide = 2 * axis.steps + 1
    drawn = (
        _draw_line(spread, axis) if spread.histogram is None else _draw_bars(spread.histogram, axis)
    )
    zeros = (
        f'<path class="z" opacity=".45" d="M{axis.steps} '
        f'{_HEIGHT}v{-spread.zeros * _HEIGHT:.4g}h1V{_HEIGHT}z"/>'
    )
    size = f' width="{_WIDTH}" height="{_HEIGHT}" fill="currentColor"' if framed else ""
    ground = f'<path opacity=".3" d="M0 {_HEIGHT - 0.5}h{wide}v.5H0z"/>' if framed else ""
    return (
        f'<svg{size} viewBox="0 0 {wide} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(describe_spread(spread))}">'
        f"{ground}{zeros if spread.zeros else ''}{drawn}</svg>"
    )


def _draw_bars(histogram: Histogram, axis: Axis) -> str:
    left, right = (
        _bin_counts(histogram.lowest, histogram.negative, axis),
        _bin_counts(histogram.lowest, histogram.positive, axis),
    )
    most = max(*left, *right, 1)
    heights = [round(n / most * _HEIGHT) or (1 if n else 0) for n in [*reversed(left), 0, *right]]
    path, level = [f"M0 {_HEIGHT}"], 0
    for height, run in groupby(heights):
        step = f"v{level - height}" if height != level else ""
        path.append(f"{step}h{sum(1 for _ in run)}")
        level = height
    return f'<path d="{"".join(path)}V{_HEIGHT}z"/>'


def _bin_counts(lowest: int, counts: Sequence[int], axis: Axis) -> list[int]:
    bins = [0] * axis.steps
    for k, n in enumerate(counts):
        bins[axis.step(lowest + k)] += n
    return bins


def _draw_line(spread: Spread, axis: Axis) -> str:
    if not all(map(math.isfinite, (spread.minimum, spread.mean, spread.std, spread.maximum))):
        return ""
    start, stop = axis.place(spread.minimum), axis.place(spread.maximum)
    near, far = (
        axis.place(max(spread.minimum, spread.mean - spread.std)),
        axis.place(min(spread.maximum, spread.mean + spread.std)),
    )
    thin = f"M{start:.4g} 7h{stop - start:.4g}v2H{start:.4g}z"
    return f'<path d="{thin}M{near:.4g} 4h{max(far - near, 0.2):.4g}v8H{near:.4g}z"/>'
