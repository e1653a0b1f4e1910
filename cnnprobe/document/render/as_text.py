"""A document as text that fits a terminal. Text of a model is shown character by character: no
markup, no control codes, no bidi marks.
"""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, chop_cells, set_cell_size

from cnnprobe.document.blocks import (
    Block,
    Code,
    Document,
    Facts,
    Folded,
    Heading,
    Notice,
    Picture,
    Shares,
    Table,
    Text,
)
from cnnprobe.document.render.columns import TextSheet, fit_columns
from cnnprobe.document.render.units import describe_shares, make_inert, split_inert_lines

SUFFIXES = (".txt",)
_NARROWEST = 20  # columns; nothing can be laid out in fewer
_PROSE = 100  # columns; longer lines are hard to read
_STYLES = {
    "heading": "bold",
    "error": "bold red",
    "warning": "yellow",
    "info": "cyan",
    "muted": "dim",
    "total": "bold",
    "head": "bold",
}

Line = tuple[str, str]  # text and the name of its style
Lines = Iterable[Line]


def render_document(document: Document, *, width: int | None = None, colour: bool = False) -> str:
    """Lines of at most `width` columns (default: the terminal's, 80 without one); escape codes only
    where `colour` is wished.
    """
    columns = max(_NARROWEST, width or shutil.get_terminal_size((80, 24)).columns)
    lines: list[Line] = []
    for i, block in enumerate(document.blocks):
        lines += ([("", "")] if i else []) + list(_render_block(block, columns))
    finished = [(_crop(text, columns).rstrip(), style) for text, style in lines]
    return "".join((_paint(text, style) if colour else text) + "\n" for text, style in finished)


def _render_block(block: Block, width: int) -> Lines:
    match block:
        case Heading():
            return [(line, "heading") for line in _wrap(block.text, width)]
        case Text():
            return [(line, "") for line in _wrap(block.text, width)]
        case Facts():
            return _render_facts(block, width)
        case Table():
            return _render_table(block, width)
        case Shares():
            return _render_facts(describe_shares(block), width)
        case Picture():
            return [
                (line, "")
                for text in (block.caption, block.alt)
                if text
                for line in _wrap(text, width)
            ]
        case Notice():
            return _render_notice(block, width)
        case Code():
            return _render_code(block, width)
        case Folded():
            return _render_folded(block, width)


def _render_facts(facts: Facts, width: int) -> Iterator[Line]:
    if facts.title:
        yield make_inert(facts.title), "heading"
    longest = min(
        max((cell_len(make_inert(name)) for name, _ in facts.pairs), default=0), width // 3
    )
    for name, said in facts.pairs:
        label = set_cell_size(make_inert(name), longest)
        for i, line in enumerate(_wrap(said, width - longest - 2)):
            yield (label if i == 0 else " " * longest) + "  " + line, ""


def _render_notice(notice: Notice, width: int) -> Iterator[Line]:
    label = f"{notice.severity} {make_inert(notice.code)}".rstrip() + ": "
    for i, line in enumerate(_wrap(label + notice.text, width, hanging="  ")):
        yield line, notice.severity if i == 0 else ""
    for name, said in (("  where: ", notice.where), ("  fix:   ", notice.fix)):
        if said:
            yield from ((line, "") for line in _wrap(name + said, width, hanging=" " * 9))


def _render_code(code: Code, width: int) -> Iterator[Line]:
    if code.title:
        yield make_inert(code.title), "heading"
    for line in split_inert_lines(code.text):
        for part in chop_cells(line, width - 4) or [""]:
            yield "    " + part, ""


def _render_folded(folded: Folded, width: int) -> Iterator[Line]:
    yield make_inert(folded.title), "heading"
    for block in folded.blocks:
        if isinstance(
            block, Notice
        ):  # a line each, cut where the terminal ends: what comes first is what is to be read
            yield (
                f"  {block.severity} {make_inert(block.code)}".rstrip()
                + f": {make_inert(block.text)}",
                block.severity,
            )
        else:
            yield from _render_block(block, width)


def _render_table(table: Table, width: int) -> Iterator[Line]:
    sheet = fit_columns(table, width)
    if table.title:
        yield from ((line, "heading") for line in _wrap(table.title, width))
    yield _join_cells(sheet, sheet.names), "head"
    yield "  ".join("-" * size for size in sheet.widths), "muted"
    for row, cells in zip(table.rows, sheet.rows, strict=True):
        yield _join_cells(sheet, cells), row.emphasis
        if row.note:
            indent = " " * (2 * min(row.depth, width // 8) + 2)
            yield from (
                (line, row.emphasis)
                for line in _wrap(indent + "^ " + row.note, width, hanging=indent + "  ")
            )
    for note in table.notes:
        yield from ((line, "muted") for line in _wrap(note, width, hanging="  "))
    if sheet.dropped:
        names = ", ".join(make_inert(name) for name in sheet.dropped)
        yield from (
            (line, "muted")
            for line in _wrap(f"not shown at {width} columns: {names}", width, hanging="  ")
        )


def _join_cells(sheet: TextSheet, cells: Sequence[str]) -> str:
    return "  ".join(
        _pad(cell, size, align)
        for cell, size, align in zip(cells, sheet.widths, sheet.aligns, strict=True)
    )


def _pad(text: str, size: int, align: str) -> str:
    room = size - (len(text) if text.isascii() else cell_len(text))
    if room < 0:
        return _crop(text, size)
    return " " * room + text if align == "right" else text + " " * room


def _crop(text: str, size: int) -> str:
    if (len(text) if text.isascii() else cell_len(text)) <= size:
        return text
    return set_cell_size(text, size - 1) + "…"


def _wrap(text: str, width: int, *, hanging: str = "") -> list[str]:
    """Lines of at most `width` columns, broken at spaces where there are any; the text's own line
    breaks stay.
    """
    lines: list[str] = []
    for i, own in enumerate(split_inert_lines(text)):
        start = hanging if i else ""
        room = max(_NARROWEST // 2, min(width, _PROSE))
        wrapped = textwrap.wrap(
            own,
            room,
            initial_indent=start,
            subsequent_indent=hanging,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        for line in wrapped or [""]:
            lines += [line] if line.isascii() else chop_cells(line, width)
    return lines


def _paint(text: str, style: str) -> str:
    if not text or style not in _STYLES:
        return text
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(_STYLES[style]).render(text, color_system=ColorSystem.STANDARD)
