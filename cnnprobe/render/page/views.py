"""What the page's template needs to know of a table or a bar, worked out beforehand: texts, numbers to sort by, shares, drawings."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from cnnprobe.render.document import Block, Cell, Column, Picture, Row, Shares, Spread, Table
from cnnprobe.render.drawing import Axis, axis_of, draw_spread
from cnnprobe.render.units import inert, inert_lines, percent, written

_OPEN_ROWS = 60  # rows that are open at first: as many levels as fit
_RARE = 8  # columns of this priority and above are shown on demand
_WIDE = 6  # columns of this priority are shown where there is room
_LEAST_PERCENT = 0.5  # a narrower bar is not seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A table with pictures of the same things beside it."""

    table: Table
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A table; `head` and `rows` are HTML, `open_depth` is the deepest level that is open at first."""

    title: str
    head: Markup
    rows: tuple[Markup, ...]
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
    head = "".join(_element("th", inert(column.name), {"scope": "col", "class": _classes(column)}) for column in table.columns)
    return TableView(
        title=inert(table.title),
        head=Markup(head),  # noqa: S704 - every part of it was escaped in _element
        rows=tuple(Markup("".join(_row(table, row, axis, wholes))) for row in table.rows),  # noqa: S704
        notes=(*map(inert, table.notes), *_legend(table, axis)),
        is_tree=is_tree,
        open_depth=_open_depth(table) if is_tree else 0,
    )


def _element(tag: str, inside: str, attributes: Mapping[str, str]) -> str:
    """An element of HTML; what is inside is escaped unless it is Markup, and attributes always. A template would take ten times as long."""
    given = "".join([f' {name}="{escape(said)}"' for name, said in attributes.items() if said])
    return f"<{tag}{given}>{inside if isinstance(inside, Markup) else escape(inside)}</{tag}>"


def _whole(table: Table, column: int) -> float:
    return max((n for row in table.rows if isinstance(n := row.cells[column], int | float)), default=0.0)


@functools.cache
def _classes(column: Column) -> str:
    names = {"n": column.align == "right", "rare": column.priority >= _RARE, "wide": column.priority == _WIDE, "v": column.name == "values"}
    return " ".join(name for name, on in names.items() if on)


def _row(table: Table, row: Row, axis: Axis, wholes: Sequence[float]) -> Iterator[str]:
    depth = f"--d:{row.depth}" if row.depth else ""
    cells = [_cell(cell, column, axis, whole) for cell, column, whole in zip(row.cells, table.columns, wholes, strict=True)]
    inside = [_element("td" if i else "th", text, given if i else {"scope": "row", **given}) for i, (text, given) in enumerate(cells)]
    attributes = {"id": row.key, "class": row.emphasis, "data-d": str(row.depth or ""), "style": depth}
    yield _element("tr", Markup("".join(inside)), attributes)  # noqa: S704 - made of elements
    if row.note:
        said = Markup("<br>").join(inert_lines(row.note))
        note = _element("td", Markup(_element("span", said, {})), {"colspan": str(len(table.columns))})  # noqa: S704
        yield _element("tr", Markup(note), {"class": f"note {row.emphasis}".strip(), "style": depth})  # noqa: S704


def _cell(cell: Cell, column: Column, axis: Axis, whole: float) -> tuple[str, Mapping[str, str]]:
    """The text or drawing, and the attributes: the number to sort by where the text does not say it exactly, the share of the whole."""
    classes = _classes(column)
    if isinstance(cell, Spread):
        return Markup(draw_spread(cell, axis)), {"class": classes, "data-v": f"{cell.std:.6g}"}  # noqa: S704 - made of numbers
    text = inert(written(cell, column.unit))
    attributes = {"class": classes}
    if isinstance(cell, int | float) and text.replace(",", "") != f"{cell}":
        attributes["data-v"] = f"{cell}" if isinstance(cell, int) else f"{cell:.7g}"
    if whole and isinstance(cell, int | float) and cell:
        attributes |= {"class": f"{classes} s", "style": f"--s:{max(100 * cell / whole, _LEAST_PERCENT):.3g}%"}
    return text, attributes


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
