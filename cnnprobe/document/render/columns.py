"""Which columns of a table fit a width, and how wide each is then. A number is never cut: its
column goes as a whole, and that is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from cnnprobe.document.blocks import Column, Row, Table
from cnnprobe.document.render.units import format_cell, make_inert

_GAP = 2
_NAME_SHARE = 0.45  # of the width that the first column may take at most
_TEXT_SHARE = 0.35  # of the width that any other text column may take at most
_INDENT = 2
_WORTH_A_CUT = 2  # columns up to this priority stay if cutting a text makes room for them
_NARROWEST = 3  # columns of a text: one letter, the mark of the cut, one letter


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSheet:
    """A table cut to a width: names, alignments, widths and cells of the columns that are left, and
    the names of those that are not.
    """

    names: tuple[str, ...]
    aligns: tuple[str, ...]
    widths: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]
    dropped: tuple[str, ...]


def fit_columns(table: Table, width: int) -> TextSheet:
    """The columns of `table` that fit `width`, the most important kept, the first column indented
    by the depth of its row.
    """
    grid = [_build_column(table, i, width) for i in range(len(table.columns))]
    wanted = [
        max(cell_len(table.columns[i].name), *map(_measure, cells), 0)
        for i, cells in enumerate(grid)
    ]
    limits = [_find_limit(column, i, width) for i, column in enumerate(table.columns)]
    sizes = [min(want, limit) for want, limit in zip(wanted, limits, strict=True)]
    kept = _keep_columns(table.columns, sizes, width, down_to=_WORTH_A_CUT)
    if _add_widths([sizes[i] for i in kept]) > width:
        sizes = [
            min(size, column.least or size)
            for size, column in zip(sizes, table.columns, strict=True)
        ]
        kept = _keep_columns(table.columns, sizes, width, down_to=0, among=kept)
    texts = [table.columns[i].align == "left" for i in kept]
    widths = _widen(
        _narrow([sizes[i] for i in kept], texts, width), [wanted[i] for i in kept], width
    )
    shown = [
        [_shorten(cell, size) for cell in grid[i]] for i, size in zip(kept, widths, strict=True)
    ]
    return TextSheet(
        names=tuple(make_inert(table.columns[i].name) for i in kept),
        aligns=tuple(table.columns[i].align for i in kept),
        widths=tuple(widths),
        rows=tuple(zip(*shown, strict=True)),
        dropped=tuple(column.name for i, column in enumerate(table.columns) if i not in kept),
    )


def _build_column(table: Table, i: int, width: int) -> list[str]:
    unit = table.columns[i].unit
    cells = [make_inert(format_cell(row.cells[i], unit)) for row in table.rows]
    return (
        [_indent(cell, row, width) for cell, row in zip(cells, table.rows, strict=True)]
        if i == 0
        else cells
    )


def _indent(cell: str, row: Row, width: int) -> str:
    deepest = max(1, width // 10)  # so that the indentation leaves room for the names
    return (
        " " * (_INDENT * row.depth) + cell
        if row.depth <= deepest
        else " " * (_INDENT * deepest) + f"{row.depth}: {cell}"
    )


def _measure(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _find_limit(column: Column, i: int, width: int) -> int:
    if column.align == "right" or column.is_whole:
        return width
    return max(8, int(width * (_TEXT_SHARE if i else _NAME_SHARE)))


def _add_widths(sizes: Sequence[int]) -> int:
    return sum(sizes) + _GAP * (len(sizes) - 1)


def _keep_columns(
    columns: Sequence[Column],
    sizes: Sequence[int],
    width: int,
    *,
    down_to: int,
    among: Sequence[int] | None = None,
) -> list[int]:
    """The columns that fit when those of a priority above `down_to` may go."""
    kept = list(range(len(columns)) if among is None else among)
    while _add_widths([sizes[i] for i in kept]) > width:
        least = max(kept, key=lambda i: (columns[i].priority, i))
        if columns[least].priority <= down_to:
            break
        kept.remove(least)
    return kept


def _narrow(sizes: Sequence[int], texts: Sequence[bool], width: int) -> list[int]:
    """Where even the columns that stay are too wide, takes from the widest text each time: numbers
    keep their room.
    """
    narrowed = list(sizes)
    over = _add_widths(sizes) - width
    for _ in range(over):
        widest = max(
            (i for i, text in enumerate(texts) if text), key=lambda i: narrowed[i], default=None
        )
        if widest is None or narrowed[widest] <= _NARROWEST:
            break
        narrowed[widest] -= 1
    return narrowed


def _widen(sizes: Sequence[int], wanted: Sequence[int], width: int) -> list[int]:
    """Gives the room that is left to the columns that were limited, the first ones first."""
    left = width - _add_widths(sizes)
    widths = []
    for size, want in zip(sizes, wanted, strict=True):
        more = max(0, min(left, want - size))
        widths.append(min(size + more, width))
        left -= more
    return widths


def _shorten(text: str, size: int) -> str:
    """A text cut in its middle: the beginning and the end of a name tell most."""
    if _measure(text) <= size:
        return text
    if size < 8:
        return set_cell_size(text, size - 1) + "…" if size > 1 else "…"
    tail = (size - 1) // 3
    end = text[-tail:] if text.isascii() else text[-(tail // 2) :]
    return set_cell_size(text, size - 1 - _measure(end)) + "…" + end
