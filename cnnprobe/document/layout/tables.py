"""Entries into the tables that people read."""

from collections.abc import Callable, Iterable, Sequence

from cnnprobe.document.blocks import Cell, Column, Emphasis, Row, Spread, Table
from cnnprobe.document.layout.entries import Entry
from cnnprobe.records.trace import Failure, ModuleCall, ParameterInfo, TensorInfo, Trace

_SHOWN_TENSORS = 2  # shapes in a cell; of further tensors only how many
_HIDDEN_STATISTICS = (  # what a diagnosis measures for its rules is in the JSON alone
    "count", "apart", "order_1", "order_2", "at_sigmoid_ends", "at_tanh_ends",
)  # fmt: skip
_ONLY_IF_ANY = ("nan", "inf")
_PRIORITIES = {"zeros": 3, "mean": 4, "std": 5, "min": 8, "max": 8, "nan": 0, "inf": 0}
_OTHER_PRIORITY = 9

Read = Callable[[Entry], Cell]


def build_module_table(trace: Trace, rows: Sequence[Entry], *, drawn: bool = False) -> Table:
    """What every call took, gave and cost, in the order of the forward pass; where it is `drawn`,
    also how the values lie.
    """
    values = _build_statistics_columns(trace, rows)
    spreads = [_build_spread_column(trace)] if drawn and values else []
    columns = [*_build_shape_columns(trace, rows), *_build_cost_columns(), *spreads, *values]
    return Table(
        title="",
        columns=tuple(column for column, _ in columns),
        rows=tuple(_build_row(trace, row, [read for _, read in columns]) for row in rows),
        notes=tuple(_list_notes(trace, rows)),
    )


def _build_row(trace: Trace, row: Entry, reads: Iterable[Read]) -> Row:
    raised = row.state == "raised here"
    failure = trace.failure
    note = (
        _write_failure_note(failure, _find_call(trace, row))
        if raised and failure is not None
        else ""
    )
    return Row(
        cells=tuple(read(row) for read in reads),
        depth=row.depth,
        emphasis=_choose_emphasis(trace, row),
        note=note,
        key=make_key(row),
    )


def make_key(row: Entry) -> str:
    """What a row is about, by its index in the trace: "c3" a call, "m5" a module that was not
    called, "p2" a parameter.
    """
    if row.call is not None:
        return f"c{row.call}"
    return f"p{row.parameter}" if row.parameter is not None else f"m{row.module}"


def _write_failure_note(failure: Failure, call: ModuleCall | None) -> str:
    given = f", given {format_shapes(call.inputs)}" if call is not None and call.inputs else ""
    return f"raised here{given}: {failure.error}".split("\n", maxsplit=1)[0]


def _choose_emphasis(trace: Trace, row: Entry) -> Emphasis:
    if row.state == "raised here":
        return "error"
    if row.state in ("unfinished", ""):
        call = _find_call(trace, row)
        return (
            "warning" if call is not None and any(is_odd(tensor) for tensor in call.outputs) else ""
        )
    return "muted"


def is_odd(tensor: TensorInfo) -> bool:
    """Whether NaN or Inf was seen in it."""
    return bool(tensor.stats and (tensor.stats.get("nan") or tensor.stats.get("inf")))


def _find_call(trace: Trace, row: Entry) -> ModuleCall | None:
    return None if row.call is None else trace.calls[row.call]


def _build_shape_columns(trace: Trace, rows: Sequence[Entry]) -> list[tuple[Column, Read]]:
    def given(row: Entry) -> Cell:
        call = _find_call(trace, row)
        return "" if call is None else format_shapes(_select_data(call.inputs))

    def made(row: Entry) -> Cell:
        if row.parameter is not None:
            return format_shape(trace.parameters[row.parameter].shape)
        call = _find_call(trace, row)
        if row.state or call is None:
            return row.state
        return (
            format_shapes(call.outputs)
            if call.outputs
            else call.returned.replace("NoneType", "None")
        )

    def dtype(row: Entry) -> Cell:
        call = _find_call(trace, row)
        return ", ".join(dict.fromkeys(tensor.dtype for tensor in call.outputs)) if call else ""

    columns = [
        (Column(name="name"), lambda row: row.name),
        (
            Column(name="kind", priority=1, least=14),
            lambda row: row.kind if row.copies == 1 else f"{row.kind} x{row.copies}",
        ),
        (Column(name="input", priority=6), given),
        (Column(name="output"), made),
    ]
    dtypes = {
        tensor.dtype for row in rows if (call := _find_call(trace, row)) for tensor in call.outputs
    }
    return [*columns, (Column(name="dtype", priority=2), dtype)] if len(dtypes) > 1 else columns


def _select_data(tensors: Sequence[TensorInfo]) -> Sequence[TensorInfo]:
    """Of a function's inputs those that flowed in; its weights are left out where there is anything
    else.
    """
    flowing = [tensor for tensor in tensors if not isinstance(tensor.source, str)]
    return flowing or tensors


def _build_cost_columns() -> list[tuple[Column, Read]]:
    return [
        (
            Column(name="parameters", align="right", priority=1, unit="count", is_share=True),
            _read_parameters,
        ),
        (
            Column(name="MACs", align="right", priority=2, unit="si", is_share=True),
            lambda row: row.macs if row.call is not None else "",
        ),
        (Column(name="bytes", align="right", priority=7, unit="bytes", is_share=True), _read_bytes),
    ]


def _read_parameters(row: Entry) -> Cell:
    if row.is_shared:
        return "shared"
    return "" if row.kind == "function" else row.parameters


def _read_bytes(row: Entry) -> Cell:
    if row.call is None:
        return ""
    return None if row.state and not row.nbytes else row.nbytes


def _build_statistics_columns(trace: Trace, rows: Sequence[Entry]) -> list[tuple[Column, Read]]:
    seen = [
        tensor.stats
        for row in rows
        if (call := _find_call(trace, row))
        for tensor in call.outputs
        if tensor.stats
    ]
    names = dict.fromkeys(
        name for stats in seen for name in stats if name not in _HIDDEN_STATISTICS
    )
    shown = [
        name for name in names if name not in _ONLY_IF_ANY or any(stats.get(name) for stats in seen)
    ]
    return [(_build_statistic_column(name), _make_reader(trace, name)) for name in shown]


def _build_spread_column(trace: Trace) -> tuple[Column, Read]:
    def spread(row: Entry) -> Cell:
        call = _find_call(trace, row)
        first = (
            next((tensor for tensor in call.outputs if tensor.stats), None)
            if call is not None and row.copies == 1
            else None
        )
        if (
            first is None
            or first.stats is None
            or not {"min", "mean", "std", "max"} <= first.stats.keys()
        ):
            return ""
        stats, count = first.stats, first.stats.get("count", 0)
        return Spread(
            minimum=stats["min"], mean=stats["mean"], std=stats["std"], maximum=stats["max"],
            zeros=stats.get("zeros", 0) / count if count else 0.0, histogram=first.histogram,
        )  # fmt: skip

    return Column(name="values", priority=_PRIORITIES["zeros"]), spread


def _build_statistic_column(name: str) -> Column:
    unit = {"zeros": "percent", "nan": "count", "inf": "count"}.get(name, "value")
    title = {"nan": "NaN", "inf": "Inf"}.get(name, name)
    return Column(
        name=title,
        align="right",
        priority=_PRIORITIES.get(name, _OTHER_PRIORITY),
        unit=unit,  # type: ignore[arg-type]
    )


def _make_reader(trace: Trace, name: str) -> Read:
    def read(row: Entry) -> Cell:
        call = _find_call(trace, row)
        if call is None or row.copies > 1:
            return ""
        values = [tensor.stats for tensor in call.outputs if tensor.stats]
        if not values or name not in values[0]:
            return None
        if name == "zeros":
            count = sum(stats.get("count", 0) for stats in values)
            return sum(stats.get("zeros", 0) for stats in values) / count if count else None
        return (
            sum(stats.get(name, 0) for stats in values) if name in _ONLY_IF_ANY else values[0][name]
        )

    return read


def _list_notes(trace: Trace, rows: Sequence[Entry]) -> Iterable[str]:
    calls = [call for row in rows if (call := _find_call(trace, row))]
    folded = next((row.copies for row in rows if row.copies > 1), 0)
    if folded:
        yield f"x{folded}: {folded} identical rows shown as one, with their sums" + (
            ", without statistics" if _has_statistics(calls) else ""
        )
    if any(call.index > 0 and call.fqn is not None for call in calls):
        yield "#2: second call of the same module"
    if any(row.is_shared for row in rows):
        yield "shared: the parameters are counted in another row"
    if any(row.macs is None and row.call is not None for row in rows):
        yield "MACs -: no formula (named below), or it did not run"
    if _has_statistics(calls) and any(len(call.outputs) > 1 for call in calls):
        yield "statistics of a row with several outputs are those of the first"


def _has_statistics(calls: Iterable[ModuleCall]) -> bool:
    return any(tensor.stats for call in calls for tensor in call.outputs)


def format_shape(sizes: Sequence[int]) -> str:
    """A shape as torch's users write it.

    >>> format_shape((2, 64, 8, 8)), format_shape((10,)), format_shape(())
    ('(2, 64, 8, 8)', '(10,)', '()')
    """
    return str(tuple(sizes))


def format_shapes(tensors: Sequence[TensorInfo]) -> str:
    """The shapes of the first tensors, and how many more there are."""
    text = ", ".join(format_shape(tensor.shape) for tensor in tensors[:_SHOWN_TENSORS])
    more = len(tensors) - _SHOWN_TENSORS
    return f"{text} +{more}" if more > 0 else text


def build_parameter_table(parameters: Sequence[ParameterInfo], *, title: str) -> Table:
    """Every parameter and buffer with its shape; tied ones once, with their further names below."""
    columns: tuple[Column, ...] = (
        Column(name="name"),
        Column(name="shape"),
        Column(name="elements", align="right", unit="count"),
        Column(name="bytes", align="right", priority=3, unit="bytes"),
        Column(name="dtype", priority=2),
        Column(name="", priority=1),
        Column(name="device", priority=4),
    )
    rows = [_build_parameter_row(parameter) for parameter in parameters]
    rows.append(_build_sum_row(parameters))
    if len({p.device for p in parameters}) <= 1:
        columns, rows = (
            columns[:-1],
            [Row(cells=r.cells[:-1], emphasis=r.emphasis, note=r.note) for r in rows],
        )
    return Table(title=title, columns=columns, rows=tuple(rows))


def _build_parameter_row(p: ParameterInfo) -> Row:
    role = "buffer" if p.kind == "buffer" else "trainable" if p.trainable else "frozen"
    note = "also " + ", ".join(p.aliases) if p.aliases else ""
    emphasis: Emphasis = "" if role == "trainable" else "muted"
    return Row(
        cells=(p.fqn, format_shape(p.shape), p.numel, p.nbytes, p.dtype, role, p.device),
        emphasis=emphasis,
        note=note,
    )


def _build_sum_row(parameters: Sequence[ParameterInfo]) -> Row:
    elements, nbytes = sum(p.numel for p in parameters), sum(p.nbytes for p in parameters)
    return Row(cells=("total", "", elements, nbytes, "", "", ""), emphasis="total")
