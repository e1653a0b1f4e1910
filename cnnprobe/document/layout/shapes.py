"""The arithmetic behind every shape, and how far each call sees into the input."""

from cnnprobe.document.blocks import Block, Document, Facts, Text
from cnnprobe.document.layout.arithmetic import (
    ReceptiveField,
    compute_receptive_fields,
    explain_shape,
)
from cnnprobe.document.layout.entries import Entry, list_entries
from cnnprobe.document.layout.frames import frame
from cnnprobe.document.layout.tables import format_shapes
from cnnprobe.records.trace import Trace

_NOTE = (
    "sees: receptive field, the input elements that one output element can depend on; omitted "
    "where it is the whole input or unknown"
)


def lay_out_shapes(trace: Trace) -> Document:
    """Every call whose output shape follows from a formula, with its numbers put in."""
    fields = compute_receptive_fields(trace)
    pairs = tuple(
        pair for entry in list_entries(trace) for pair in _list_pairs(trace, entry, fields)
    )
    found: tuple[Block, ...] = (Facts(pairs=pairs), Text(text=_NOTE))
    blocks = found if pairs else (Text(text="no call has a shape formula"),)
    return frame(trace.model, "how each shape is computed", blocks)


def _list_pairs(
    trace: Trace, entry: Entry, fields: dict[int, ReceptiveField]
) -> list[tuple[str, str]]:
    """The name of a call and its arithmetic; none where there is no formula."""
    if entry.call is None:
        return []
    call = trace.calls[entry.call]
    config = trace.module(call.fqn).config if call.fqn is not None else {}
    lines = _merge_lines(explain_shape(call, config))
    if not lines:
        return []
    field = fields.get(entry.call)
    seen = [f"sees {' x '.join(str(n) for n in field.size)}"] if field else []
    flow = f"{format_shapes(call.inputs[:1])} -> {format_shapes(call.outputs)}"
    return [(call.fqn or entry.name, "\n".join([flow, *lines, *seen]))]


def _merge_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Axes of the same arithmetic on one line: "H, W: ..."."""
    axes: dict[str, list[str]] = {}
    for line in lines:
        axis, found, formula = line.partition(": ")
        axes.setdefault(formula if found else line, []).append(axis if found else "")
    return tuple(
        f"{', '.join(names)}: {formula}" if names != [""] else formula
        for formula, names in axes.items()
    )
