"""The memory of a model: what fits, a line of each way to run it, and what holds it at the peak."""

from collections.abc import Iterator

from cnnprobe.document.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Row,
    Table,
    Text,
)
from cnnprobe.document.layout.frames import frame
from cnnprobe.document.layout.tables import format_shape
from cnnprobe.document.render.units import format_percent, format_si, format_size
from cnnprobe.records.memory import PARTS, TRAINING, MemoryNeed, MemoryWay
from cnnprobe.records.words import format_counted

_PARTS_NOTE = (
    "activations: made by the forward pass; temporary: gradients of activations, and other tensors "
    "that the backward pass makes and lets go"
)


def lay_out_memory(need: MemoryNeed) -> Document:
    """What fits in one sentence, then tables of the ways, of the peak and of checkpointing."""
    blocks: list[Block] = [] if need.limit is None else [Text(text=write_verdict(need))]
    blocks += [Facts(pairs=tuple(_list_facts(need))), _build_ways(need)]
    parts = _build_parts(need)
    blocks += [parts] if parts.rows else []
    if need.checkpoints:
        blocks.append(_build_checkpoints(need))
    return frame(need.model, "memory as a function of the batch", blocks, need.notes)


def write_verdict(need: MemoryNeed) -> str:
    """What fits, in a sentence."""
    said = [f"{_name_way(way, need)} up to N = {way.fits:,}" for way in need.ways if way.fits]
    never = [_name_way(way, need) for way in need.ways if way.fits == 0]
    text = f"fits {format_size(need.limit or 0)}: " + ", ".join(said) if said else ""
    refused = f"does not fit {format_size(need.limit or 0)}: {', '.join(never)}" if never else ""
    return "\n".join(line for line in (text, refused) if line)


def _name_way(way: MemoryWay, need: MemoryNeed) -> str:
    by = f" with {need.optimizer}" if way.name == TRAINING and need.optimizer else ""
    return way.name + by + (f" under {way.autocast} autocast" if way.autocast else "")


def _list_facts(need: MemoryNeed) -> Iterator[tuple[str, str]]:
    yield "input", ", ".join(map(format_shape, need.input)) + f", so N = {need.batch}"
    yield "parameters", format_size(need.parameters)
    if need.buffers:
        yield "buffers", format_size(need.buffers)
    if need.optimizer:
        yield "optimizer state", f"{format_size(need.state)} ({need.optimizer}, after a step)"
        step = max(way.step + way.step_slope * need.batch for way in need.ways)
        yield (
            "optimizer step",
            (
                f"{format_size(step)} at its peak, with foreach where the optimizer has it, as on "
                "a GPU"
            ),
        )


def _build_ways(need: MemoryNeed) -> Table:
    rows = []
    for way in need.ways:
        base = f"{format_size(abs(way.base))}"
        sign = "-" if way.base < 0 else ""
        given = way.given
        rows.append(
            Row(
                cells=(
                    way.name + (f", {way.autocast} autocast" if way.autocast else ""),
                    f"{sign}{base} + {format_size(way.slope)} * N",
                    way.first,
                    None if given is None else given.peak,
                    None if given is None else given.on_cpu,
                    None if given is None or way.name != TRAINING else given.saved,
                    way.fits if need.limit is not None else "",
                )
            )
        )
    columns = (
        Column(name="way"),
        Column(name="peak"),
        Column(name="from N", align="right", priority=3, unit="count"),
        Column(name=f"at N = {need.batch}", align="right", priority=1, unit="bytes"),
        Column(name="on a CPU", align="right", priority=2, unit="bytes"),
        Column(name="of it saved for backward", align="right", priority=2, unit="bytes"),
        *([Column(name="fits N", align="right", unit="count")] if need.limit is not None else []),
    )
    checked = sorted({batch for way in need.ways for batch, _ in way.checked})
    exact = all(
        peak == way.base + way.slope * batch for way in need.ways for batch, peak in way.checked
    )
    batches = ", ".join(map(str, checked))
    note = (
        f"checked by passes at N = {batches}: exactly these peaks"
        if exact
        else f"checked by passes at N = {batches}: off by up to {format_percent(_find_error(need))}"
    )
    trimmed = [Row(cells=row.cells[: len(columns)]) for row in rows]
    return Table(title="", columns=columns, rows=tuple(trimmed), notes=(note,))


def _find_error(need: MemoryNeed) -> float:
    return max(
        abs(way.base + way.slope * batch - peak) / peak
        for way in need.ways
        for batch, peak in way.checked
    )


def _build_parts(need: MemoryNeed) -> Table:
    """What holds memory at the peak, at the given batch."""
    ways = [way for way in need.ways if way.given is not None]
    rows = []
    for part in PARTS:
        found = [way.given.parts.get(part, 0) if way.given is not None else 0 for way in ways]
        if any(found):
            rows.append(Row(cells=(part, *found)))
    columns = (
        Column(name="part"),
        *(
            Column(name=f"{way.name} {way.autocast}".strip(), align="right", unit="bytes")
            for way in ways
        ),
    )
    title = f"At the peak, N = {need.batch}"
    return Table(title=title, columns=columns, rows=tuple(rows), notes=(_PARTS_NOTE,))


def _write_change(less: int) -> str:
    if less == 0:
        return "unchanged"
    return f"{format_size(abs(less))} {'less' if less > 0 else 'more'}"


def _build_checkpoints(need: MemoryNeed) -> Table:
    rows = tuple(
        Row(
            cells=(
                effect.module or need.model,
                effect.saved,
                _write_change(effect.peak),
                f"{format_si(effect.macs)} ({format_percent(effect.share)} of a step)",
                effect.fits,
            )[: 5 if need.limit is not None else 4]
        )
        for effect in need.checkpoints
    )
    columns = (
        Column(name="module"),
        Column(name="saves", align="right", unit="bytes"),
        Column(name="peak", align="right"),
        Column(name="MACs again", align="right", priority=1),
        *([Column(name="fits N", align="right", unit="count")] if need.limit is not None else []),
    )
    samples = format_counted(need.batch, "sample")
    return Table(
        title=f"Checkpointing one module, training with {samples}", columns=columns, rows=rows
    )
