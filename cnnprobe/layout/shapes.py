"""The arithmetic behind every shape, and how far each call sees into the input."""

from cnnprobe.arithmetic import ReceptiveField, explain_shape, receptive_fields
from cnnprobe.layout.entries import Entry, entries
from cnnprobe.layout.tables import shapes
from cnnprobe.render.document import Block, Column, Document, Heading, Row, Table, Text
from cnnprobe.trace import Trace

_COLUMNS = (
    Column(name="name"),
    Column(name="shapes", priority=2),
    Column(name="arithmetic"),
    Column(name="receptive field", align="right", priority=1),
)
_NOTE = "receptive field: input elements that one output element can depend on; empty once it is the whole input or not known"


def lay_out_shapes(trace: Trace) -> Document:
    """Every call whose output shape follows from a formula, with its numbers put in."""
    fields = receptive_fields(trace)
    rows = [row for entry in entries(trace) for row in _rows(trace, entry, fields)]
    blocks: list[Block] = [Heading(text=f"{trace.model}: how each shape comes about", level=1)]
    blocks.append(Table(title="", columns=_COLUMNS, rows=tuple(rows), notes=(_NOTE,)) if rows else Text(text="no call has a shape formula"))
    return Document(title=trace.model, blocks=tuple(blocks))


def _rows(trace: Trace, entry: Entry, fields: dict[int, ReceptiveField]) -> list[Row]:
    if entry.call is None:
        return []
    call = trace.calls[entry.call]
    config = trace.module(call.fqn).config if call.fqn is not None else {}
    lines = _merged(explain_shape(call, config))
    field = fields.get(entry.call)
    if not lines:
        return []
    seen = " x ".join(f"{n}" for n in field.size) if field else ""
    name = call.fqn or entry.name
    first = Row(cells=(name, f"{shapes(call.inputs[:1])} -> {shapes(call.outputs)}", lines[0], seen))
    return [first, *(Row(cells=("", "", line, "")) for line in lines[1:])]


def _merged(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Axes of the same arithmetic on one line: "H, W: ..."."""
    axes: dict[str, list[str]] = {}
    for line in lines:
        axis, found, formula = line.partition(": ")
        axes.setdefault(formula if found else line, []).append(axis if found else "")
    return tuple(f"{', '.join(names)}: {formula}" if names != [""] else formula for formula, names in axes.items())
