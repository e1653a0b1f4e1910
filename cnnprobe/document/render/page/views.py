"""What the page's template needs to know of a table or a bar, worked out beforehand: texts, shares,
drawings.

A page of thousands of rows is made of little else, so a row is as short as HTML allows: end tags
are left out where it lets them be, attributes stand without quotes where they may, and what is said
of a column is said once, by its number, in the style of its table.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from markupsafe import Markup

from cnnprobe.document.blocks import Block, Cell, Column, Picture, Row, Shares, Spread, Table, Trend
from cnnprobe.document.render.distributions import Axis, draw_spread, fit_axis
from cnnprobe.document.render.trends import draw_trend
from cnnprobe.document.render.units import (
    format_cell,
    format_percent,
    make_inert,
    split_inert_lines,
)

_OPEN_ROWS = 60  # rows that are open at first: as many levels as fit
_RARE = 8  # columns of this priority and above are shown on demand
_WIDE = 6  # columns of this priority are shown where there is room
_LEAST_PERCENT = 0.5  # a narrower bar is not seen
_PLAIN = re.compile(r"[\w#%(),./:;-]+")  # an attribute that needs no quotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A table with pictures of the same things beside it."""

    table: Table
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """Charts that are seen together."""

    charts: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A table; `head` and `rows` are HTML, `open_depth` is the deepest level that is open at
    first.
    """

    title: str
    classes: str
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


def arrange(blocks: Iterable[Block]) -> Iterator[Block | Beside | Charts]:
    """The blocks, with pictures that follow a tree right beside it, and charts in a row
    together.
    """
    for kind, found in groupby(
        _attach_pictures(blocks), lambda block: isinstance(block, Picture) and block.is_chart
    ):
        if kind:
            yield Charts(charts=tuple(block for block in found if isinstance(block, Picture)))
        else:
            yield from found


def _attach_pictures(blocks: Iterable[Block]) -> Iterator[Block | Beside]:
    tree: Table | None = None
    pictures: list[Picture] = []
    for block in (*blocks, None):
        if tree is not None and isinstance(block, Picture) and not block.is_chart:
            pictures.append(block)
            continue
        if tree is not None:
            yield Beside(table=tree, pictures=tuple(pictures)) if pictures else tree
        tree, pictures = (block if isinstance(block, Table) and _is_tree(block) else None), []
        if block is not None and tree is None:
            yield block


def _is_tree(table: Table) -> bool:
    return any(row.depth for row in table.rows)


def view_table(table: Table) -> TableView:
    """The table as the template shows it."""
    axis = fit_axis(table)
    wholes = [
        _find_whole(table, i) if column.is_share else 0.0 for i, column in enumerate(table.columns)
    ]
    is_tree = _is_tree(table)
    head = "".join(
        _write_element(
            "th",
            make_inert(column.name),
            {"scope": "col", "class": " ".join(_list_classes(column))},
        )
        for column in table.columns
    )
    return TableView(
        title=make_inert(table.title),
        classes=" ".join(
            f"{name}{i}"
            for i, column in enumerate(table.columns, start=1)
            for name in _list_classes(column)
        ),
        head=Markup(head),  # noqa: S704 - every part of it was escaped in _element
        rows=tuple(Markup("".join(_write_row(table, row, axis, wholes))) for row in table.rows),  # noqa: S704
        notes=(*map(make_inert, table.notes), *_write_legend(table, axis)),
        is_tree=is_tree,
        open_depth=_find_open_depth(table) if is_tree else 0,
    )


def write_column_styles(page: str) -> str:
    """For the classes of columns that the tables of a page have ("n5": the fifth holds numbers)
    what they mean.
    """
    used = {
        name
        for classes in re.findall(r'<table class="([a-z0-9 ]+)">', page)
        for name in classes.split()
    }
    return "".join(
        _STYLES[name[0]].format(f".{name} tr:not(.note)>:nth-child({name[1:]})") + "\n"
        for name in sorted(used)
    )


_STYLES = {
    "n": "{}{{text-align:right}}",
    "v": "{}{{padding-top:1px;padding-bottom:1px}}",
    "r": ".tree:not(.all) {}{{display:none}}",
    "w": "@container (max-width:980px){{.tree:not(.all) {}{{display:none}}}}",
}


def _write_element(tag: str, inside: str, attributes: Mapping[str, str]) -> str:
    """An element of HTML without its end; what is inside is escaped unless it is Markup, and
    attributes always. A template would take ten times as long.
    """
    given = "".join(
        [
            f" {name}={said if _PLAIN.fullmatch(said) else _quote(said)}"
            for name, said in attributes.items()
            if said
        ]
    )
    return f"<{tag}{given}>{inside if isinstance(inside, Markup) else escape(inside)}"


def _quote(said: str) -> str:
    return f'"{escape(said)}"'


def _find_whole(table: Table, column: int) -> float:
    return max(
        (n for row in table.rows if isinstance(n := row.cells[column], int | float)), default=0.0
    )


def _list_classes(column: Column) -> list[str]:
    """Numbers, values, rare, and those that take much width."""
    kinds = {
        "n": column.align == "right",
        "v": column.name == "values",
        "r": column.priority >= _RARE,
        "w": column.priority == _WIDE,
    }
    return [name for name, on in kinds.items() if on]


def _write_row(table: Table, row: Row, axis: Axis, wholes: Sequence[float]) -> Iterator[str]:
    depth = f"--d:{row.depth}" if row.depth else ""
    cells = [
        _write_cell(cell, column, axis, whole)
        for cell, column, whole in zip(row.cells, table.columns, wholes, strict=True)
    ]
    inside = [
        _write_element("td" if i else "th", text, given if i else {"scope": "row", **given})
        for i, (text, given) in enumerate(cells)
    ]
    yield _write_element(
        "tr",
        Markup("".join(inside)),  # noqa: S704
        {"id": row.key, "class": row.emphasis, "style": depth},
    )
    if row.note:
        said = Markup("<br>").join(split_inert_lines(row.note))
        span = Markup(f"<span>{said}</span>")  # noqa: S704 - joined above, escaped
        note = _write_element("td", span, {"colspan": str(len(table.columns))})
        yield "\n" + _write_element(
            "tr",
            Markup(note),  # noqa: S704
            {"class": f"note {row.emphasis}".strip(), "style": depth},
        )


def _write_cell(
    cell: Cell, column: Column, axis: Axis, whole: float
) -> tuple[str, Mapping[str, str]]:
    """The text or drawing, and the attributes: of a drawing the number to sort by, of a number its
    share of the whole.
    """
    if isinstance(cell, Trend):
        return Markup(draw_trend(cell.values)), {}  # noqa: S704 - made of numbers
    if isinstance(cell, Spread):
        return Markup(draw_spread(cell, axis, framed=False)), {"data-v": f"{cell.std:.4g}"}  # noqa: S704 - made of numbers
    text = make_inert(format_cell(cell, column.unit))
    share = 100 * cell / whole if whole and isinstance(cell, int | float) else 0.0
    return text, {"class": "s", "style": f"--s:{share:.3g}%"} if share >= _LEAST_PERCENT else {}


def _write_legend(table: Table, axis: Axis) -> Iterator[str]:
    if any(isinstance(cell, Spread) for row in table.rows for cell in row.cells):
        yield (
            f"values: histogram of magnitudes, from 2^{axis.lowest} next to the middle to "
            f"2^{axis.highest} at the edges; "
            "negative values left, positive values right; the pale bar in the middle is the share "
            "of exact zeros"
        )


def _find_open_depth(table: Table) -> int:
    """As many levels as fit, at least one below the top."""
    at: dict[int, int] = {}
    for row in table.rows:
        at[row.depth] = at.get(row.depth, 0) + 1
    depth, shown = 0, at.get(0, 0)
    while depth + 1 in at and shown + at[depth + 1] <= _OPEN_ROWS:
        depth += 1
        shown += at[depth]
    return max(depth, 1)


def make_bars(shares: Shares) -> list[Bar]:
    """The parts of a whole, each in percent."""
    whole = sum(part.number for part in shares.parts) or 1
    return [
        Bar(
            name=make_inert(part.name),
            key=part.key,
            percent=100 * part.number / whole,
            told=f"{format_percent(part.number / whole)}, {format_cell(part.number, shares.unit)}",
        )
        for part in shares.parts
    ]
