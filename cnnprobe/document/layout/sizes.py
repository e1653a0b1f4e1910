"""Shapes as formulas of the input's sizes: which sizes are legal, why the others are not, and a row
for each call.
"""

from collections.abc import Iterator, Mapping, Sequence

from cnnprobe.document.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Notice,
    Row,
    Table,
)
from cnnprobe.document.layout.arithmetic import find_window
from cnnprobe.document.layout.entries import Entry, list_entries
from cnnprobe.document.layout.folded_rows import fold_rows
from cnnprobe.document.layout.frames import frame
from cnnprobe.document.layout.tables import format_shape, format_shapes, make_key
from cnnprobe.records.sizes import Dim, SizeCrash, SizedCall, SizedShapes, Symbol, write_dim
from cnnprobe.records.trace import Trace

_SHOWN_TENSORS = 2  # shapes in a cell; of further tensors only how many
_EXAMPLES = 3
_NOTE = "?: no formula fits; the numbers at some sizes stand below the row"


def lay_out_sizes(shapes: SizedShapes, *, depth: int | None = None) -> Document:
    """The legal sizes, the crashes at others, and a table of formulas.

    Args:
        shapes: what was found.
        depth: deepest level of modules that is shown: 0 the model alone, None all.
    """
    blocks: tuple[Block, ...] = (
        Facts(pairs=tuple(_list_facts(shapes))),
        *(_show_crash(crash, shapes.symbols) for crash in shapes.crashes),
        _build_table(shapes, depth),
    )
    subject = "shapes as formulas of the input's sizes"
    return frame(shapes.trace.model, subject, blocks, shapes.notes)


def write_shape(dims: Sequence[Dim | None]) -> str:
    """A shape with formulas in it.

    >>> write_shape((Dim(constant=3), None))
    '(3, ?)'
    """
    inside = ", ".join(map(write_dim, dims))
    return f"({inside},)" if len(dims) == 1 else f"({inside})"


def _list_facts(shapes: SizedShapes) -> Iterator[tuple[str, str]]:
    infos = shapes.trace.calls[0].inputs if shapes.trace.calls else ()
    for number, (path, dims) in enumerate(shapes.inputs):
        name = "input" if path in ("", "0") else f"input {path}"
        given = f", given as {format_shape(infos[number].shape)}" if number < len(infos) else ""
        yield name, write_shape(dims) + given
    for names, text in _merge({s.name: describe_legal(s) for s in shapes.symbols}):
        yield names, text
    spatial = {s.name: describe_whole(s) for s in shapes.symbols if s.name not in ("N", "C")}
    spatial = spatial if _has_windows(shapes.trace) else {}
    for names, text in _merge(spatial):
        yield "nothing cut off", f"{names}: {text}"
    if shapes.verified:
        where = ", ".join(map(format_shape, shapes.verified))
        names = ", ".join(s.name for s in shapes.symbols)
        yield "checked", f"the formulas hold at ({names}) = {where}, which they were not made from"


def _has_windows(trace: Trace) -> bool:
    configs = {module.fqn: module.config for module in trace.modules}
    return any(find_window(call, configs.get(call.fqn or "", {})) for call in trace.calls)


def _merge(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names of the same text together: "H, W"."""
    for text in dict.fromkeys(texts.values()):
        yield ", ".join(name for name, other in texts.items() if other == text), text


def describe_legal(symbol: Symbol) -> str:
    """The sizes that the forward accepts, in words.

    >>> describe_legal(Symbol(name="H", given=64, least=8, step=8))
    'multiples of 8, from 8'
    >>> describe_legal(Symbol(name="H", given=32, least=32, most=39))
    '32 to 39'
    """
    least, most, step = symbol.least, symbol.most, symbol.step
    if least == most:
        return f"{least} only"
    if step == 1:
        return f"{least} or more" if most is None else f"{least} to {most}"
    end = "" if most is None else f" to {most}"
    if least % step == 0:
        return f"multiples of {step}, from {least}{end}"
    examples = ", ".join(str(least + k * step) for k in range(_EXAMPLES))
    return f"{examples}, ...{end}: in steps of {step}"


def describe_whole(symbol: Symbol) -> str:
    """The sizes at which no convolution or pooling cuts off an edge of its input, in words.

    >>> describe_whole(Symbol(name="H", given=299, least=75, period=32, residues=(11,)))
    '75, 107, 139, ...: sizes with remainder 11 modulo 32'
    >>> describe_whole(Symbol(name="H", given=32, least=32, most=39, period=8))
    '32 only'
    """
    period, residues = symbol.period, symbol.residues
    if not residues:
        return "at no size: a layer always leaves out the last elements of its input"
    if len(residues) == period:
        return "at every legal size"
    legal = (symbol.least + k * symbol.step for k in range(_EXAMPLES * period + 1))
    fitting = [
        size for size in legal if size % period in residues and size <= (symbol.most or size)
    ]
    if symbol.most is not None and len(fitting) <= _EXAMPLES:
        return f"{', '.join(map(str, fitting))} only" if fitting else "at no legal size"
    if residues == (0,):
        return f"multiples of {period}"
    examples = ", ".join(map(str, fitting[:_EXAMPLES]))
    remainders = " or ".join(map(str, residues))
    return f"{examples}, ...: sizes with remainder {remainders} modulo {period}"


def _show_crash(crash: SizeCrash, symbols: Sequence[Symbol]) -> Notice:
    changed = [
        f"{symbol.name} = {size}"
        for symbol, size in zip(symbols, crash.sizes, strict=True)
        if size != symbol.given
    ]
    cause = "" if crash.diagnosis == "unknown" else f"cause {crash.diagnosis}"
    module = f"module {crash.module!r}" if crash.module else ""
    return Notice(
        severity="info",
        text=f"{', '.join(changed)} crashes: {crash.message}",
        where=", ".join(part for part in (module, cause) if part),
        fix=crash.fix,
    )


def _build_table(shapes: SizedShapes, depth: int | None) -> Table:
    rows = {row.call: row for row in shapes.rows}
    entries = [
        entry
        for entry in fold_rows(shapes.trace, list_entries(shapes.trace))
        if entry.call is not None and (depth is None or entry.depth <= depth)
    ]
    lines = tuple(_build_row(shapes, entry, rows.get(entry.call or 0)) for entry in entries)
    columns = (
        Column(name="name"),
        Column(name="kind", priority=1, least=14),
        Column(name="output", is_whole=True),
        Column(name="as given", priority=3),
    )
    return Table(
        title="", columns=columns, rows=lines, notes=(_NOTE,) if any(r.note for r in lines) else ()
    )


def _build_row(shapes: SizedShapes, entry: Entry, sized: SizedCall | None) -> Row:
    outputs = () if sized is None else sized.outputs
    kind = entry.kind if entry.copies == 1 else f"{entry.kind} x{entry.copies}"
    written = ", ".join(map(write_shape, outputs[:_SHOWN_TENSORS]))
    more = len(outputs) - _SHOWN_TENSORS
    call = shapes.trace.calls[entry.call or 0]
    return Row(
        cells=(
            entry.name,
            kind,
            f"{written} and {more} more" if more > 0 else written,
            format_shapes(call.outputs) if call.outputs else "",
        ),
        depth=entry.depth,
        note="" if sized is None else _describe_numbers(sized, shapes.symbols),
        key=make_key(entry),
    )


def _describe_numbers(sized: SizedCall, symbols: Sequence[Symbol]) -> str:
    names = ", ".join(symbol.name for symbol in symbols)
    numbers = "; ".join(f"{format_shape(made)} at {format_shape(at)}" for at, made in sized.seen)
    return f"({names}): {numbers}" if numbers else ""
