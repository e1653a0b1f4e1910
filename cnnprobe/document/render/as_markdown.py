"""A document as GitHub-flavoured Markdown, for issues, pull requests and notes. Text of a model cannot become markup in it."""

import re
from collections.abc import Iterable

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
from cnnprobe.document.render.units import in_words, inert, inert_lines, written

SUFFIXES = (".md", ".markdown")
_SPECIAL = re.compile(r"([\\`*_\[\]|~$#!])")
_AT_LINE_START = re.compile(r"^(\d*)([-+=.)])")
_DEEPEST = 20  # steps of indentation; a deeper row says its depth


def render_document(document: Document, *, width: int | None = None, colour: bool = False) -> str:  # noqa: ARG001
    """Headings, pipe tables, quotes and fenced code, separated by empty lines."""
    return "\n\n".join("\n".join(_block(block)) for block in document.blocks) + "\n"


def _block(block: Block) -> Iterable[str]:
    match block:
        case Heading():
            return ["#" * block.level + " " + _escaped(block.text)]
        case Text():
            return ["  \n".join(_line(line) for line in block.text.split("\n"))]
        case Facts():
            return _titled(block.title) + [
                f"- **{_escaped(name)}**: {_escaped(said)}" for name, said in block.pairs
            ]
        case Table():
            return _table(block)
        case Shares():
            return list(_block(in_words(block)))
        case Picture():
            return [_escaped(text) for text in (block.caption, block.alt) if text]
        case Notice():
            return _notice(block)
        case Code():
            return _titled(block.title) + _code(block)
        case Folded():
            return [
                "\n\n".join(
                    [
                        "### " + _escaped(block.title),
                        *("\n".join(_block(inner)) for inner in block.blocks),
                    ]
                )
            ]


def _titled(title: str) -> list[str]:
    return [f"**{_escaped(title)}**", ""] if title else []


def _notice(notice: Notice) -> list[str]:
    code = f" {notice.code}" if notice.code else ""
    first, *more = notice.text.split("\n")
    lines = [
        f"> **{notice.severity}{_escaped(code)}**: {_escaped(first)}",
        *(f"> {_line(line)}" for line in more),
    ]
    lines += [
        f"> {name}: {_escaped(said)}"
        for name, said in (("where", notice.where), ("fix", notice.fix))
        if said
    ]
    return ["  \n".join(lines)]


def _code(code: Code) -> list[str]:
    lines = inert_lines(code.text)
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + re.sub(r"[^a-z]", "", code.language), *lines, fence]


def _table(table: Table) -> list[str]:
    lines = _titled(table.title)
    lines.append("| " + " | ".join(_escaped(column.name) for column in table.columns) + " |")
    lines.append(
        "|"
        + "|".join("---:" if column.align == "right" else "---" for column in table.columns)
        + "|"
    )
    for row in table.rows:
        cells = [
            _escaped(written(cell, column.unit))
            for cell, column in zip(row.cells, table.columns, strict=True)
        ]
        cells[0] = _indent(row.depth) + cells[0]
        if row.emphasis in ("error", "total") and cells[0]:
            cells[0] = f"**{cells[0]}**"
        lines.append("| " + " | ".join(cells) + " |")
        if row.note:
            lines.append(
                "| " + _indent(row.depth) + f"**{_escaped(row.note)}**" + " |" * len(table.columns)
            )
    for note in table.notes:
        lines += ["", _line(note)]
    return lines


def _indent(depth: int) -> str:
    return "&nbsp;&nbsp;" * depth if depth <= _DEEPEST else "&nbsp;&nbsp;" * _DEEPEST + f"{depth}: "


def _escaped(text: str) -> str:
    text = inert(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def _line(text: str) -> str:
    """A line of its own: what would begin a list, a quote or a heading there is escaped too."""
    return _AT_LINE_START.sub(r"\1\\\2", _escaped(text.strip()))
