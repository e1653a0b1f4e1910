"""Numbers over time in the space of a word: as a row of bars, or as a small line in SVG."""

import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_GAP = " "  # where there was nothing
_COLUMNS = 16  # characters of a row of bars
_WIDTH, _HEIGHT = 100, 16  # of a line, in CSS pixels
_POINTS = 48


def draw_sparkline(values: Sequence[float], width: int = _COLUMNS) -> str:
    """The values as a row of bars from their least to their greatest, neighbours put together where
    there are more than `width`.

    >>> draw_sparkline([0.0, 1.0, 2.0, float("nan"), 7.0])
    '▁▂▃ █'
    """
    means = _thin(values, width)
    low, scale = _find_range(means, len(_BARS) - 1)
    return "".join(
        _BARS[round((mean - low) * scale)] if math.isfinite(mean) else _GAP for mean in means
    )


def draw_trend(values: Sequence[float]) -> str:
    """The values as a line from their least to their greatest, with a gap where there was nothing;
    as bars in words. Of many values it shows each group's least and greatest.
    """
    drawn = _pick_extremes(values, _POINTS)
    low, scale = _find_range(drawn, _HEIGHT - 4)
    step = (_WIDTH - 4) / max(len(drawn) - 1, 1)
    path, drawing = "", False
    for i, number in enumerate(drawn):
        if math.isfinite(number):
            path += (
                f"{'L' if drawing else 'M'}{2 + i * step:.3g} "
                f"{_HEIGHT - 2 - (number - low) * scale:.2g}"
            )
        drawing = math.isfinite(number)
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{draw_sparkline(values)}">'
        '<path fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" '
        f'd="{path}h0"/></svg>'
    )


def _pick_extremes(values: Sequence[float], most: int) -> Sequence[float]:
    """Of many values the least and the greatest of each group, in their order; NaN for a group that
    has none.
    """
    if len(values) <= most:
        return values
    picked: list[float] = []
    for group in _cut(values, most // 2):
        finite = [i for i, number in enumerate(group) if math.isfinite(number)]
        ends = [choose(finite, key=group.__getitem__) for choose in (min, max) if finite]
        picked += [group[i] for i in sorted(ends)] or [math.nan, math.nan]
    return picked


def _cut(values: Sequence[float], groups: int) -> list[Sequence[float]]:
    of = len(values)
    return [values[of * k // groups : of * (k + 1) // groups] for k in range(groups)]


def _thin(values: Sequence[float], most: int) -> list[float]:
    groups = _cut(values, most) if len(values) > most else [[v] for v in values]
    return [_compute_mean(group) for group in groups]


def _find_range(means: Sequence[float], height: int) -> tuple[float, float]:
    """The least, and what turns a distance from it into a height."""
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    return low, height / (high - low) if high > low and math.isfinite(high - low) else 0.0


def _compute_mean(group: Sequence[float]) -> float:
    finite = [number for number in group if math.isfinite(number)]
    if finite and min(finite) == max(finite):
        return finite[0]  # of equal numbers a sum of parts may be off by its last bit
    return sum(number / len(finite) for number in finite) if finite else math.nan
