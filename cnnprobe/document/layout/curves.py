"""The curves of a watched training run as pictures: each number over the steps, and the layers
together, the first NaN marked.
"""

import math
from collections.abc import Iterator, Sequence

from cnnprobe.document.blocks import Picture
from cnnprobe.document.render.charts import Polyline, describe_line, draw_curves
from cnnprobe.records.history import History, Series

_MOST = 40  # lines of one chart; of more layers as many, from the first to the last
_LEADING = ("loss", "learning rate")


def draw_history_pictures(history: History) -> Iterator[Picture]:
    """The loss first, then the learning rate, then the layers; each chart marks the step of the
    first value that was not finite.
    """
    mark, note = _find_mark(history)
    short = note.partition(":")[0]
    ordered = sorted(
        history.curves,
        key=lambda curve: _LEADING.index(curve.name) if curve.name in _LEADING else len(_LEADING),
    )
    for curve in ordered[:1]:
        yield _draw_picture(
            curve.name,
            [Polyline(name=curve.name, steps=curve.steps, values=curve.values)],
            mark,
            note,
        )
    yield from _draw_layers(history, mark, short)
    for curve in ordered[1:]:
        yield _draw_picture(
            curve.name,
            [Polyline(name=curve.name, steps=curve.steps, values=curve.values)],
            mark,
            short,
        )


def _find_mark(history: History) -> tuple[int | None, str]:
    event = history.nonfinite
    if event is not None:
        where = (
            event.what if event.what == "loss" else f"{event.what} of {event.fqn or 'the model'}"
        )
        return event.step, f"{'NaN' if event.nan or not event.inf else 'Inf'}: {where}"
    for curve in history.curves:
        step = next(
            (
                step
                for step, number in zip(curve.steps, curve.values, strict=True)
                if not math.isfinite(number)
            ),
            None,
        )
        if step is not None:
            return step, f"{curve.name} is not finite"
    return None, ""


def _draw_layers(history: History, mark: int | None, note: str) -> Iterator[Picture]:
    parameters = {
        series.fqn for series in history.series if series.what == "parameter"
    }  # whose own gradients are no layer's
    for title, what, numbers in (
        ("gradient norm of each layer", "gradient", lambda one: one.numbers.get("norm", ())),
        ("update / weight of each parameter", "update", lambda one: one.numbers.get("ratio", ())),
        ("share of zeros of each activation", "activation", _read_zeros),
    ):
        found = [
            (series, numbers(series))
            for series in history.series
            if series.what == what and not (what == "gradient" and series.fqn in parameters)
        ]
        lines = [
            Polyline(name=_name_series(series), steps=history.steps, values=values)
            for series, values in found
            if len(values) == len(history.steps) and any(math.isfinite(number) for number in values)
        ]
        if what == "activation":
            lines = [line for line in lines if any(number > 0 for number in line.values)]
        if lines:
            yield _draw_picture(title, _pick_lines(lines), mark, note)


def _name_series(series: Series) -> str:
    return (
        (series.fqn or "the model")
        + (f" #{series.call + 1}" if series.call else "")
        + series.output
    )


def _read_zeros(series: Series) -> Sequence[float]:
    pairs = zip(series.numbers.get("zeros", ()), series.numbers.get("count", ()), strict=False)
    return [zeros / count if count > 0 else math.nan for zeros, count in pairs]


def _pick_lines(lines: Sequence[Polyline]) -> Sequence[Polyline]:
    """At most as many as can be told apart, spread evenly from the first to the last."""
    if len(lines) <= _MOST:
        return lines
    return [lines[round(k * (len(lines) - 1) / (_MOST - 1))] for k in range(_MOST)]


def _draw_picture(title: str, lines: Sequence[Polyline], mark: int | None, note: str) -> Picture:
    said = (
        describe_line(lines[0])
        if len(lines) == 1
        else f"{title}, {len(lines)} lines from {lines[0].name} to {lines[-1].name}"
    )
    alt = said + (f"; {note} at step {mark}" if note else "")
    return Picture(
        svg=draw_curves(lines, mark=mark, note=note), alt=alt, caption=title, is_chart=True
    )
