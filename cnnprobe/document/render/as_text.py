"""A document as text that fits a terminal. Text of a model is shown character by character: no markup, no control codes, no bidi marks."""

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
from cnnprobe.document.render.columns import Sheet, fit
from cnnprobe.document.render.units import in_words, inert, inert_lines

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
    """Lines of at most `width` columns (default: the terminal's, 80 without one); escape codes only where `colour` is wished."""
    columns = max(_NARROWEST, width or shutil.get_terminal_size((80, 24)).columns)
    lines: list[Line] = []
    for i, block in enumerate(document.blocks):
        lines += ([("", "")] if i else []) + list(_block(block, columns))
    finished = [(_cropped(text, columns).rstrip(), style) for text, style in lines]
    return "".join((_coloured(text, style) if colour else text) + "\n" for text, style in finished)


def _block(block: Block, width: int) -> Lines:
    match block:
        case Heading():
            return [(line, "heading") for line in _wrapped(block.text, width)]
        case Text():
            return [(line, "") for line in _wrapped(block.text, width)]
        case Facts():
            return _facts(block, width)
        case Table():
            return _table(block, width)
        case Shares():
            return _facts(in_words(block), width)
        case Picture():
            return [
                (line, "")
                for text in (block.caption, block.alt)
                if text
                for line in _wrapped(text, width)
            ]
        case Notice():
            return _notice(block, width)
        case Code():
            return _code(block, width)
        case Folded():
            return _folded(block, width)


def _facts(facts: Facts, width: int) -> Iterator[Line]:
    if facts.title:
        yield inert(facts.title), "heading"
    longest = min(max((cell_len(inert(name)) for name, _ in facts.pairs), default=0), width // 3)
    for name, said in facts.pairs:
        label = set_cell_size(inert(name), longest)
        for i, line in enumerate(_wrapped(said, width - longest - 2)):
            yield (label if i == 0 else " " * longest) + "  " + line, ""


def _notice(notice: Notice, width: int) -> Iterator[Line]:
    label = f"{notice.severity} {inert(notice.code)}".rstrip() + ": "
    for i, line in enumerate(_wrapped(label + notice.text, width, hanging="  ")):
        yield line, notice.severity if i == 0 else ""
    for name, said in (("  where: ", notice.where), ("  fix:   ", notice.fix)):
        if said:
            yield from ((line, "") for line in _wrapped(name + said, width, hanging=" " * 9))


def _code(code: Code, width: int) -> Iterator[Line]:
    if code.title:
        yield inert(code.title), "heading"
    for line in inert_lines(code.text):
        for part in chop_cells(line, width - 4) or [""]:
            yield "    " + part, ""


def _folded(folded: Folded, width: int) -> Iterator[Line]:
    yield inert(folded.title), "heading"
    for block in folded.blocks:
        if isinstance(
            block, Notice
        ):  # a line each, cut where the terminal ends: what comes first is what is to be read
            yield (
                f"  {block.severity} {inert(block.code)}".rstrip() + f": {inert(block.text)}",
                block.severity,
            )
        else:
            yield from _block(block, width)


def _table(table: Table, width: int) -> Iterator[Line]:
    sheet = fit(table, width)
    if table.title:
        yield from ((line, "heading") for line in _wrapped(table.title, width))
    yield _joined(sheet, sheet.names), "head"
    yield "  ".join("-" * size for size in sheet.widths), "muted"
    for row, cells in zip(table.rows, sheet.rows, strict=True):
        yield _joined(sheet, cells), row.emphasis
        if row.note:
            indent = " " * (2 * min(row.depth, width // 8) + 2)
            yield from (
                (line, row.emphasis)
                for line in _wrapped(indent + "^ " + row.note, width, hanging=indent + "  ")
            )
    for note in table.notes:
        yield from ((line, "muted") for line in _wrapped(note, width, hanging="  "))
    if sheet.dropped:
        names = ", ".join(inert(name) for name in sheet.dropped)
        yield from (
            (line, "muted")
            for line in _wrapped(f"not shown at {width} columns: {names}", width, hanging="  ")
        )


def _joined(sheet: Sheet, cells: Sequence[str]) -> str:
    return "  ".join(
        _padded(cell, size, align)
        for cell, size, align in zip(cells, sheet.widths, sheet.aligns, strict=True)
    )


def _padded(text: str, size: int, align: str) -> str:
    room = size - (len(text) if text.isascii() else cell_len(text))
    if room < 0:
        return _cropped(text, size)
    return " " * room + text if align == "right" else text + " " * room


def _cropped(text: str, size: int) -> str:
    if (len(text) if text.isascii() else cell_len(text)) <= size:
        return text
    return set_cell_size(text, size - 1) + "…"


def _wrapped(text: str, width: int, *, hanging: str = "") -> list[str]:
    """Lines of at most `width` columns, broken at spaces where there are any; the text's own line breaks stay."""
    lines: list[str] = []
    for i, own in enumerate(inert_lines(text)):
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


def _coloured(text: str, style: str) -> str:
    if not text or style not in _STYLES:
        return text
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(_STYLES[style]).render(text, color_system=ColorSystem.STANDARD)
