"""What every layer put out over a data set, as people read it."""

from collections.abc import Sequence

from cnnprobe.document.blocks import Column, Document, Heading, Row, Spread, Table, Text
from cnnprobe.document.layout.frames import list_notes
from cnnprobe.records.measured import Measured
from cnnprobe.records.words import format_counted

_COLUMNS = (
    Column(name="output of"),
    Column(name="kind", priority=4),
    Column(name="values", priority=5),
    Column(name="mean", align="right", unit="value", priority=2),
    Column(name="std", align="right", unit="value", priority=2),
    Column(name="min", align="right", unit="value"),
    Column(name="0.1%", align="right", unit="value", priority=1),
    Column(name="99.9%", align="right", unit="value", priority=1),
    Column(name="max", align="right", unit="value"),
    Column(name="zeros", align="right", unit="percent", priority=1),
    Column(name="dead channels", align="right", priority=3),
    Column(name="not finite", align="right", unit="count", priority=3),
)
_NOTES = (
    "0.1% and 99.9%: percentiles, to 1/128 of their magnitude",
    "dead channels: those with nothing but zeros over all samples",
)


def lay_out_measured(
    tensors: Sequence[Measured], *, model: str, data: str, samples: int, notes: Sequence[str] = ()
) -> Document:
    """A row for each tensor, in the order in which they came."""
    return Document(
        title=model,
        blocks=(
            Heading(text=model, level=1),
            Text(text=f"{format_counted(samples, 'sample')} of {data}, in eval mode"),
            Table(title="", columns=_COLUMNS, rows=tuple(map(_build_row, tensors)), notes=_NOTES),
            *list_notes(notes),
        ),
    )


def _build_row(measured: Measured) -> Row:
    found = measured.statistics
    odd = found.nan + found.inf
    spread = Spread(
        minimum=found.min,
        mean=found.mean,
        std=found.std,
        maximum=found.max,
        zeros=found.zeros / found.count if found.count else 0.0,
        histogram=found.histogram,
    )
    named = measured.fqn + (f" #{measured.call + 1}" if measured.call else "") + measured.output
    return Row(
        cells=(
            "(input)" + measured.output if measured.what == "input" else named or "the model",
            measured.kind if measured.what == "activation" else None,
            spread,
            found.mean,
            found.std,
            found.min,
            measured.percentiles.get("0.1"),
            measured.percentiles.get("99.9"),
            found.max,
            spread.zeros,
            _count_dead(measured),
            odd or None,
        ),
        emphasis="warning" if odd else "",
    )


def _count_dead(measured: Measured) -> str | None:
    channels = measured.statistics.channels
    if channels is None:
        return None
    dead = sum(channels.all_zero)
    return f"{dead} of {len(channels.all_zero)}" if dead else "0"
