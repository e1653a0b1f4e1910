"""A watched training run as people read it: the curves, what was not finite, what died, what was
kept, and each layer over the steps.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from cnnprobe.document.blocks import (
    Block,
    Cell,
    Column,
    Document,
    Heading,
    Notice,
    Row,
    Table,
    Text,
    Trend,
)
from cnnprobe.document.layout.curves import draw_history_pictures
from cnnprobe.document.layout.frames import list_notes
from cnnprobe.document.layout.ranks import build_rank_table, name_owners, show_owners
from cnnprobe.document.layout.tables import format_shapes
from cnnprobe.document.render.units import (
    format_count,
    format_percent,
    format_seconds,
    format_size,
    format_value,
)
from cnnprobe.records.history import (
    Curve,
    DeadChannels,
    History,
    LivingGraph,
    NonFinite,
    Series,
    drift,
)
from cnnprobe.records.words import format_counted

_MOST = 60  # layers that are shown; JSON has them all
_DRIFT = (
    "drift: how far the mean has moved since the first step, in standard deviations of that step"
)
_NAMED = 8  # channels in a sentence


def lay_out_history(history: History, *, drawn: bool = False) -> Document:
    """The run alone, as a document of its own; see `build_history_blocks`."""
    return Document(
        title=history.model,
        blocks=(Heading(text=history.model, level=1), *build_history_blocks(history, drawn=drawn)),
    )


def build_history_blocks(history: History, *, drawn: bool = False) -> Iterator[Block]:
    """The run in reading order; where it is `drawn`, with its curves as pictures."""
    yield Text(text=_introduce(history))
    if history.ranks:
        yield build_rank_table(history.ranks)
    if history.nonfinite is not None:
        yield _report_nonfinite(history.nonfinite)
    if drawn:
        yield from draw_history_pictures(history)
    yield from (_report_dead(dead) for dead in history.dead)
    yield from _report_kept(history.kept)
    if history.curves:
        yield _build_curve_table(history.curves)
    yield from _build_layer_tables(history)
    yield from list_notes(history.notes)


def _introduce(history: History) -> str:
    seen = len(history.steps) + history.thinned
    if not seen:
        return f"{format_counted(history.total, 'training step')}, none of them observed"
    of = (
        ""
        if seen == history.total
        else f", of which {format_count(seen)} {'was' if seen == 1 else 'were'} observed"
    )
    return (
        f"{format_counted(history.total, 'training step')}{of}: {history.steps[0]} to "
        f"{history.steps[-1]}"
    ) + _describe_thinning(history)


def _describe_thinning(history: History) -> str:
    if not history.thinned:
        return ""
    kept = format_count(len(history.steps))
    return f"; {kept} of them are kept, with the least and greatest numbers of all in between"


def _report_nonfinite(event: NonFinite) -> Notice:
    what = {"loss": "the loss", "activation": "the output", "gradient": "the gradient"}.get(
        event.what, f"the {event.what}"
    )
    parts = [
        f"{format_count(number)} {name}"
        for number, name in ((event.nan, "NaN"), (event.inf, "Inf"))
        if number
    ]
    of = f" of {format_count(event.count)} values" if event.count > 1 else ""
    text = f"step {event.step}: {what} is not finite" + (
        f": {', '.join(parts)}{of}" if parts else ""
    )
    named = (
        ""
        if event.what == "loss"
        else f"'{event.fqn}'" + (f" ({event.kind})" if event.kind else "")
    )
    call = f", call {event.call}" if event.call else ""
    given = f"given {format_shapes(event.inputs)}{_describe_range(event)}" if event.inputs else ""
    before = (
        f"the last finite step was {event.seen_before}" if event.seen_before is not None else ""
    )
    return Notice(
        severity="error",
        text=text,
        where="; ".join(part for part in (named + call, given, before) if part),
    )


def _describe_range(event: NonFinite) -> str:
    stats = event.inputs[0].stats
    if stats is None:
        return ""
    odd = stats.get("nan", 0) + stats.get("inf", 0)
    return (
        f", of which {format_count(odd)} {'value is' if odd == 1 else 'values are'} not finite"
        if odd
        else f", all finite, from {format_value(stats['min'])} to {format_value(stats['max'])}"
    )


def _report_dead(dead: DeadChannels) -> Notice:
    more = len(dead.channels) - _NAMED
    named = ", ".join(map(str, dead.channels[:_NAMED])) + (f" and {more} more" if more > 0 else "")
    text = (
        f"{len(dead.channels)} of {dead.of} channels "
        f"{'was' if len(dead.channels) == 1 else 'were'} zero at each observed step from "
        f"{dead.first} to {dead.last}"
    )
    kind = f" ({dead.kind})" if dead.kind else ""
    return Notice(
        severity="info",
        text=text,
        where=f"'{dead.fqn}'{kind}, channel{'s' if len(dead.channels) > 1 else ''} {named}",
    )


def _report_kept(graphs: Sequence[LivingGraph]) -> Iterator[Notice]:
    if not graphs:
        return
    steps = (
        f"step {graphs[0].step}"
        if len(graphs) == 1
        else f"{len(graphs)} steps, the first {graphs[0].step}"
    )
    saved = sum(graph.saved_bytes for graph in graphs)
    holding = f", holding {format_size(saved)} of activations" if saved else ""
    keepers = list(dict.fromkeys(keeper for graph in graphs for keeper in graph.keepers))
    yield Notice(
        severity="warning",
        text=f"the autograd graph of {steps} is still alive{holding}",
        where=", ".join(keepers[:3]),
    )


def _build_curve_table(curves: Sequence[Curve]) -> Table:
    owners = [curve.ranks for curve in curves]
    columns = (
        Column(name="curve"),
        *name_owners(owners),
        Column(name="over the steps", priority=3),
        Column(name="first", align="right"),
        Column(name="last", align="right"),
        Column(name="least", align="right", priority=1),
        Column(name="greatest", align="right", priority=1),
    )
    rows = tuple(_build_curve_row(curve, show_owners(curve.ranks, owners)) for curve in curves)
    return Table(title="", columns=columns, rows=rows)


def _build_curve_row(curve: Curve, owner: tuple[str, ...]) -> Row:
    finite = [number for number in curve.values if math.isfinite(number)]
    numbers = [
        *curve.values[:1],
        *curve.values[-1:],
        *([min(finite), max(finite)] if finite else [math.nan, math.nan]),
    ]
    write = format_seconds if curve.name == "seconds" else format_value
    return Row(
        cells=(
            curve.name,
            *owner,
            Trend(values=curve.values),
            *(write(n) if n == n else "NaN" for n in numbers),  # noqa: PLR0124
        )
    )


def _build_layer_tables(history: History) -> Iterator[Table]:
    activations = [series for series in history.series if series.what == "activation"]
    if activations:
        yield _build_activation_table(history, activations)
    parameters = [series for series in history.series if series.what == "parameter"]
    if parameters:
        yield _build_parameter_table(history, parameters)


def _build_activation_table(history: History, activations: Sequence[Series]) -> Table:
    gradients = {(s.fqn, s.call, s.output): s for s in history.series if s.what == "gradient"}
    owners = [series.ranks for series in activations]
    columns = (
        Column(name="activation of"),
        *name_owners(owners),
        Column(name="kind", priority=2),
        Column(name="mean", align="right"),
        Column(name="std", align="right"),
        Column(name="std over the steps", priority=4),
        Column(name="drift", align="right", priority=2),
        Column(name="zeros", align="right"),
        Column(name="gradient norm", align="right", priority=1),
        Column(name="gradient over the steps", priority=4),
    )
    rows = []
    for series in activations[:_MOST]:
        gradient = gradients.get((series.fqn, series.call, series.output))
        cells: tuple[Cell, ...] = (
            _name_series(series), *show_owners(series.ranks, owners), series.kind,
            _read_last(series, "mean"), _read_last(series, "std"),
            Trend(values=series.numbers.get("std", ())), _format_drift(series), _read_zeros(series),
            None if gradient is None else _read_last(gradient, "norm"),
            None if gradient is None else Trend(values=gradient.numbers.get("norm", ())),
        )  # fmt: skip
        rows.append(
            Row(
                cells=cells,
                emphasis="warning"
                if _is_odd(series) or (gradient is not None and _is_odd(gradient))
                else "",
            )
        )
    return Table(
        title="Layers",
        columns=columns,
        rows=tuple(rows),
        notes=(_DRIFT, *_list_notes(len(activations))),
    )


def _build_parameter_table(history: History, parameters: Sequence[Series]) -> Table:
    updates = {series.fqn: series for series in history.series if series.what == "update"}
    owners = [series.ranks for series in parameters]
    columns = (
        Column(name="parameter"),
        *name_owners(owners),
        Column(name="mean", align="right", priority=1),
        Column(name="std", align="right", priority=1),
        Column(name="norm", align="right"),
        Column(name="norm over the steps", priority=4),
        Column(name="update / weight", align="right"),
        Column(name="update over the steps", priority=4),
    )
    rows = []
    for series in parameters[:_MOST]:
        update = updates.get(series.fqn)
        cells: tuple[Cell, ...] = (
            series.fqn, *show_owners(series.ranks, owners), _read_last(series, "mean"),
            _read_last(series, "std"), _read_last(series, "norm"),
            Trend(values=series.numbers.get("norm", ())),
            None if update is None else _read_last(update, "ratio", "{:.1e}".format, of=series),
            None if update is None else Trend(values=update.numbers.get("ratio", ())),
        )  # fmt: skip
        rows.append(Row(cells=cells, emphasis="warning" if _is_odd(series) else ""))
    return Table(
        title="Parameters", columns=columns, rows=tuple(rows), notes=_list_notes(len(parameters))
    )


def _list_notes(rows: int) -> tuple[str, ...]:
    said = "numbers are those of the last observed step"
    return (
        (said,)
        if rows <= _MOST
        else (said, f"{rows - _MOST:,} more rows are not shown here; report.save() writes them all")
    )


def _name_series(series: Series) -> str:
    call = f" #{series.call + 1}" if series.call else ""
    return (series.fqn or "the model") + call + series.output


def _read_last(
    series: Series,
    name: str,
    write: Callable[[float], str] = format_value,
    *,
    of: Series | None = None,
) -> str | None:
    """The number of the last step that has seen the tensor (for an update, `of` its parameter); NaN
    where nothing in it was finite any more.
    """
    counted, nan, inf = ((of or series).numbers.get(each, ()) for each in ("count", "nan", "inf"))
    at = next((i for i in reversed(range(len(counted))) if counted[i] > 0), None)
    if at is not None and at < min(len(nan), len(inf)) and nan[at] + inf[at] == counted[at]:
        return "NaN"
    number = next((n for n in reversed(series.numbers.get(name, ())) if n == n), None)  # noqa: PLR0124
    return None if number is None else write(number)


def _format_drift(series: Series) -> str | None:
    number = next((n for n in reversed(drift(series)) if n == n), None)  # noqa: PLR0124
    return None if number is None else f"{number:+.2f}"


def _read_zeros(series: Series) -> str | None:
    pairs = zip(
        reversed(series.numbers.get("zeros", ())),
        reversed(series.numbers.get("count", ())),
        strict=False,
    )
    return next((format_percent(zeros / number) for zeros, number in pairs if number > 0), None)


def _is_odd(series: Series) -> bool:
    return any(number > 0 for name in ("nan", "inf") for number in series.numbers.get(name, ()))
