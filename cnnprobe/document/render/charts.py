"""Curves over steps as SVG: no script, no style needed, legible on light and dark ground, told in
words to those who do not see them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from cnnprobe.document.render.units import format_value, make_inert
from cnnprobe.records.words import DIGITS, count_digits

_WIDTH, _HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 8, 20, 20
_NAMES = 96  # room to the right of several lines, for their names
_POINTS, _FEW = (
    160,
    60,
)  # of a line, and of one of many; of more, neighbours are put together by their least and greatest
_MANY = 3  # lines beyond which each has few points
_DECADES = 1.7  # powers of ten between least and greatest beyond which the axis is logarithmic
_LINE_OF_TEXT = 12
_NAMED = 9  # lines that are all named; of more only the first and the last
_LONGEST = 15  # characters of a name
_CHARACTERS_LEFT = 8
_RED = "#d1344b"
_COLD, _WARM = 215, 25  # hues of the first and the last line, by way of violet and red


@dataclass(frozen=True, slots=True, kw_only=True)
class Polyline:
    """A number at each of some steps; where it is NaN or infinite the line has a gap."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where a step and a value lie in the drawing."""

    first: int
    last: int
    low: float
    high: float
    is_log: bool
    right: float

    def x(self, step: float) -> float:
        return _LEFT + (self.right - _LEFT) * (
            (step - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        )

    def y(self, number: float) -> float:
        low, high, at = (math.log10(n) if self.is_log else n for n in (self.low, self.high, number))
        # halves: a difference may be too large for a float
        share = (at / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5
        return _TOP + (_HEIGHT - _BOTTOM - _TOP) * (1 - share)


def draw_curves(lines: Sequence[Polyline], *, mark: int | None = None, note: str = "") -> str:
    """The lines over their steps with both axes, as one SVG element.

    Args:
        lines: in the order in which they are coloured; several are named beside their ends.
        mark: a step at which a red line stands.
        note: what is said there.
    """
    axes = _fit_axes(lines)
    told = escape(make_inert("; ".join(filter(None, (*map(describe_line, lines[:_NAMED]), note)))))
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" class="cnnprobe-chart" role="img" '
        f'aria-label="{told}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" fill="currentColor" font-family="system-ui,sans-serif" '
        'font-size="10.5">'
    )
    parts = [head, *_draw_frame(axes)]
    most = _POINTS if len(lines) <= _MANY else _FEW
    parts += [
        _draw_path(line, axes, _choose_colour(i, len(lines)), most) for i, line in enumerate(lines)
    ]
    parts += _write_names(lines, axes) if len(lines) > 1 else []
    parts += [] if mark is None else _draw_mark(axes, mark, note)
    return "".join(parts) + "</svg>"


def describe_line(line: Polyline) -> str:
    """The line for those who do not see it: where it begins and ends, its least and its greatest
    value.
    """
    if not line.values:
        return f"{line.name}: nothing"
    finite = [number for number in line.values if math.isfinite(number)]
    ends = (
        f"{format_value(line.values[0])} at step {line.steps[0]}, {format_value(line.values[-1])} "
        f"at step {line.steps[-1]}"
    )
    return f"{line.name}: {ends}" + (
        f", between {format_value(min(finite))} and {format_value(max(finite))}" if finite else ""
    )


def _fit_axes(lines: Sequence[Polyline]) -> _Axes:
    steps = [step for line in lines for step in line.steps] or [0]
    finite = [number for line in lines for number in line.values if math.isfinite(number)] or [0.0]
    positive = [number for number in finite if number > 0]
    low, high = min(finite), max(finite)
    is_log = bool(positive) and low >= 0 and math.log10(high) - math.log10(min(positive)) > _DECADES
    right = _WIDTH - _RIGHT - (_NAMES if len(lines) > 1 else 0)
    return _Axes(min(steps), max(steps), min(positive) if is_log else low, high, is_log, right)


def _draw_frame(axes: _Axes) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    yield (
        f'<path fill="none" stroke="currentColor" stroke-opacity=".35" d="M{_LEFT} '
        f'{_TOP}V{bottom}H{axes.right:.0f}"/>'
    )
    middle = (
        math.sqrt(axes.low) * math.sqrt(axes.high) if axes.is_log else axes.low / 2 + axes.high / 2
    )
    ticks = (axes.low, middle, axes.high)
    n = count_digits(*ticks)
    for number in dict.fromkeys(ticks):
        y = axes.y(number)
        said = format_value(number) if n == DIGITS else f"{number:.{n}g}"
        yield (
            f'<path stroke="currentColor" stroke-opacity=".12" d="M{_LEFT} '
            f'{y:.1f}H{axes.right:.0f}"/>'
        )
        yield (
            f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" '
            f'text-anchor="end">{escape(said[:_CHARACTERS_LEFT])}</text>'
        )
    yield f'<text x="{_LEFT}" y="{_HEIGHT - 6}">step {axes.first}</text>'
    if axes.last > axes.first:
        yield f'<text x="{axes.right:.0f}" y="{_HEIGHT - 6}" text-anchor="end">{axes.last}</text>'
    if axes.is_log:
        yield (
            f'<text x="{(_LEFT + axes.right) / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle" '
            'fill-opacity=".7">logarithmic</text>'
        )


def _draw_path(line: Polyline, axes: _Axes, colour: str, most: int) -> str:
    path, drawing = [], False
    points = list(_thin_points(line, axes, most))
    for x, y in points:
        path.append("" if y is None else f"{'L' if drawing else 'M'}{x:.4g} {y:.4g}")
        drawing = y is not None
    # a line of one point would not be seen
    lonely = len([y for _, y in points if y is not None]) == 1
    drawn = "".join(path) + ("h.1" if lonely else "")
    title = f"<title>{escape(make_inert(describe_line(line)))}</title>"
    return (
        f'<path fill="none" stroke="{colour}" stroke-width="{4 if lonely else 1.6}" '
        f'stroke-linecap="round" stroke-linejoin="round" d="{drawn}">{title}</path>'
    )


def _thin_points(line: Polyline, axes: _Axes, most: int) -> Iterator[tuple[float, float | None]]:
    pairs = list(zip(line.steps, line.values, strict=True))
    size = math.ceil(len(pairs) / (most / 2)) if len(pairs) > most else 1
    for start in range(0, len(pairs), size):
        group = [
            (step, number)
            for step, number in pairs[start : start + size]
            if _is_drawn(number, axes)
        ]
        if not group:
            yield axes.x(pairs[start][0]), None
            continue
        ends = {min(group, key=lambda pair: pair[1]), max(group, key=lambda pair: pair[1])}
        yield from ((axes.x(step), axes.y(number)) for step, number in sorted(ends))


def _is_drawn(number: float, axes: _Axes) -> bool:
    return math.isfinite(number) and (number > 0 or not axes.is_log)


def _write_names(lines: Sequence[Polyline], axes: _Axes) -> Iterator[str]:
    """Beside the end of its line each name, moved down where two would overlap."""
    shown = range(len(lines)) if len(lines) <= _NAMED else (0, len(lines) - 1)
    ends = []
    for i in shown:
        last = next((n for n in reversed(lines[i].values) if _is_drawn(n, axes)), None)
        if last is not None:
            ends.append((axes.y(last), i))
    ends.sort()
    lowest = _HEIGHT - _BOTTOM - _LINE_OF_TEXT * (len(ends) - 1)
    y = -math.inf
    for place, (wanted, i) in enumerate(ends):
        y = max(y + _LINE_OF_TEXT, min(wanted + 3.5, lowest + _LINE_OF_TEXT * place))
        name = (
            lines[i].name if len(lines[i].name) <= _LONGEST else "…" + lines[i].name[1 - _LONGEST :]
        )
        yield (
            f'<text x="{axes.right + 5:.0f}" y="{y:.1f}" '
            f'fill="{_choose_colour(i, len(lines))}">{escape(make_inert(name))}</text>'
        )


def _draw_mark(axes: _Axes, step: int, note: str) -> Iterator[str]:
    x = axes.x(min(max(step, axes.first), axes.last))
    yield (
        f'<path stroke="{_RED}" stroke-width="1.5" stroke-dasharray="4 3" d="M{x:.1f} '
        f'{_TOP - 4}V{_HEIGHT - _BOTTOM}"/>'
    )
    if note:
        side, at = ("end", x + 4) if x > (_LEFT + axes.right) / 2 else ("start", x - 4)
        yield (
            f'<text x="{at:.1f}" y="{_TOP - 7}" text-anchor="{side}" fill="{_RED}" '
            f'font-weight="600">{escape(make_inert(note))}</text>'
        )


def _choose_colour(i: int, of: int) -> str:
    hue = _COLD + (360 + _WARM - _COLD) * (i / (of - 1) if of > 1 else 0.0)
    return f"hsl({hue % 360:.0f},65%,52%)"
