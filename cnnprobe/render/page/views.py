"""What the page's template needs to know of a table or a bar, worked out beforehand: texts, numbers to sort by, shares, drawings."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from cnnprobe.render.document import Block, Cell, Column, Picture, Row, Shares, Spread, Table
from cnnprobe.render.drawing import Axis, axis_of, draw_spread, in_words
from cnnprobe.render.units import inert, percent, written

_OPEN_ROWS = 60  # rows that are open at first: as many levels as fit
_RARE = 8  # columns of this priority and above are shown on demand
_LEAST_PERCENT = 0.5  # a narrower bar is not seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A table with pictures of the same things beside it."""

    table: Table
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    """A cell: its text or drawing, the number it is sorted by, its share of the whole in percent, its classes."""

    text: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """A row with what stands on its `<tr>`."""

    attributes: Mapping[str, str]
    cells: tuple[CellView, ...]
    note: str
    depth: int
    emphasis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A table; `open_depth` is the deepest level that is open at first."""

    title: str
    columns: tuple[tuple[str, str], ...]  # name and classes
    rows: tuple[RowView, ...]
    notes: tuple[str, ...]
    is_tree: bool
    open_depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A part of a whole in percent, and how strongly it is coloured."""

    name: str
    key: str
    percent: float
    told: str


def arranged(blocks: Iterable[Block]) -> Iterator[Block | Beside]:
    """The blocks, with pictures that follow a tree right beside it."""
    tree: Table | None = None
    pictures: list[Picture] = []
    for block in (*blocks, None):
        if tree is not None and isinstance(block, Picture):
            pictures.append(block)
            continue
        if tree is not None:
            yield Beside(table=tree, pictures=tuple(pictures)) if pictures else tree
        tree, pictures = (block if isinstance(block, Table) and _is_tree(block) else None), []
        if block is not None and tree is None:
            yield block


def _is_tree(table: Table) -> bool:
    return any(row.depth for row in table.rows)


def table_view(table: Table) -> TableView:
    """The table as the template shows it."""
    axis = axis_of(table)
    wholes = [_whole(table, i) if column.is_share else 0.0 for i, column in enumerate(table.columns)]
    is_tree = _is_tree(table)
    return TableView(
        title=inert(table.title),
        columns=tuple((inert(column.name), _classes(column)) for column in table.columns),
        rows=tuple(_row(table, row, axis, wholes) for row in table.rows),
        notes=(*map(inert, table.notes), *_legend(table, axis)),
        is_tree=is_tree,
        open_depth=_open_depth(table) if is_tree else 0,
    )


def _whole(table: Table, column: int) -> float:
    return max((n for row in table.rows if isinstance(n := row.cells[column], int | float)), default=0.0)


def _classes(column: Column) -> str:
    return " ".join(name for name, on in (("n", column.align == "right"), ("rare", column.priority >= _RARE)) if on)


def _row(table: Table, row: Row, axis: Axis, wholes: list[float]) -> RowView:
    attributes = {"id": row.key, "class": row.emphasis, "data-d": str(row.depth or ""), "style": f"--d:{row.depth}" if row.depth else ""}
    cells = tuple(_cell(cell, column, axis, whole) for cell, column, whole in zip(row.cells, table.columns, wholes, strict=True))
    return RowView(attributes=_given(attributes), cells=cells, note=row.note, depth=row.depth, emphasis=row.emphasis)


def _cell(cell: Cell, column: Column, axis: Axis, whole: float) -> CellView:
    attributes = {"class": _classes(column)}
    if isinstance(cell, Spread):
        attributes |= {"data-v": f"{cell.std:.6g}", "title": in_words(cell)}
        text: str = Markup(draw_spread(cell, axis))  # noqa: S704 - made of numbers
        if column.name == "values":
            attributes["class"] += " v"
    else:
        text = inert(written(cell, column.unit))
        if isinstance(cell, int | float) and text != f"{cell}":
            attributes["data-v"] = f"{cell:.10g}"
        if whole and isinstance(cell, int | float) and cell:
            share = 100 * cell / whole
            attributes |= {"style": f"--s:{max(share, _LEAST_PERCENT):.3g}%", "title": f"{percent(cell / whole)} of all {column.name}"}
            attributes["class"] += " s"
    return CellView(text=text, attributes=_given(attributes))


def _given(attributes: Mapping[str, str]) -> dict[str, str]:
    return {name: said.strip() for name, said in attributes.items() if said.strip()}


def _legend(table: Table, axis: Axis) -> Iterator[str]:
    if any(isinstance(cell, Spread) for row in table.rows for cell in row.cells):
        yield (
            f"values: how many have which magnitude, from 2^{axis.lowest} beside the middle to 2^{axis.highest} at the edges, "
            "negative ones left, positive ones right; the pale bar in the middle is the share of exact zeros"
        )


def _open_depth(table: Table) -> int:
    """As many levels as fit, at least one below the top."""
    at: dict[int, int] = {}
    for row in table.rows:
        at[row.depth] = at.get(row.depth, 0) + 1
    depth, shown = 0, at.get(0, 0)
    while depth + 1 in at and shown + at[depth + 1] <= _OPEN_ROWS:
        depth += 1
        shown += at[depth]
    return max(depth, 1)


def bars(shares: Shares) -> list[Bar]:
    """The parts of a whole, each in percent."""
    whole = sum(part.number for part in shares.parts) or 1
    return [
        Bar(
            name=inert(part.name),
            key=part.key,
            percent=100 * part.number / whole,
            told=f"{percent(part.number / whole)}, {written(part.number, shares.unit)}",
        )
        for part in shares.parts
    ]
