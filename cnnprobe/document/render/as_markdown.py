"""A document as GitHub-flavoured Markdown, for issues, pull requests and notes. Text of a model
cannot become markup in it.
"""

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
from cnnprobe.document.render.units import (
    describe_shares,
    format_cell,
    make_inert,
    split_inert_lines,
)

SUFFIXES = (".md", ".markdown")
_SPECIAL = re.compile(r"([\\`*_\[\]|~$#!])")
_AT_LINE_START = re.compile(r"^(\d*)([-+=.)])")
_DEEPEST = 20  # steps of indentation; a deeper row says its depth


def render_document(document: Document, *, width: int | None = None, colour: bool = False) -> str:  # noqa: ARG001
    """Headings, pipe tables, quotes and fenced code, separated by empty lines."""
    return "\n\n".join("\n".join(_render_block(block)) for block in document.blocks) + "\n"


def _render_block(block: Block) -> Iterable[str]:
    match block:
        case Heading():
            return ["#" * block.level + " " + _escape(block.text)]
        case Text():
            return ["  \n".join(_escape_line(line) for line in block.text.split("\n"))]
        case Facts():
            return _render_title(block.title) + [
                f"- **{_escape(name)}**: {_escape(said)}" for name, said in block.pairs
            ]
        case Table():
            return _render_table(block)
        case Shares():
            return list(_render_block(describe_shares(block)))
        case Picture():
            return [_escape(text) for text in (block.caption, block.alt) if text]
        case Notice():
            return _render_notice(block)
        case Code():
            return _render_title(block.title) + _render_code(block)
        case Folded():
            return [
                "\n\n".join(
                    [
                        "### " + _escape(block.title),
                        *("\n".join(_render_block(inner)) for inner in block.blocks),
                    ]
                )
            ]


def _render_title(title: str) -> list[str]:
    return [f"**{_escape(title)}**", ""] if title else []


def _render_notice(notice: Notice) -> list[str]:
    code = f" {notice.code}" if notice.code else ""
    first, *more = notice.text.split("\n")
    lines = [
        f"> **{notice.severity}{_escape(code)}**: {_escape(first)}",
        *(f"> {_escape_line(line)}" for line in more),
    ]
    lines += [
        f"> {name}: {_escape(said)}"
        for name, said in (("where", notice.where), ("fix", notice.fix))
        if said
    ]
    return ["  \n".join(lines)]


def _render_code(code: Code) -> list[str]:
    lines = split_inert_lines(code.text)
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + re.sub(r"[^a-z]", "", code.language), *lines, fence]


def _render_table(table: Table) -> list[str]:
    lines = _render_title(table.title)
    lines.append("| " + " | ".join(_escape(column.name) for column in table.columns) + " |")
    lines.append(
        "|"
        + "|".join("---:" if column.align == "right" else "---" for column in table.columns)
        + "|"
    )
    for row in table.rows:
        cells = [
            _escape(format_cell(cell, column.unit))
            for cell, column in zip(row.cells, table.columns, strict=True)
        ]
        cells[0] = _indent(row.depth) + cells[0]
        if row.emphasis in ("error", "total") and cells[0]:
            cells[0] = f"**{cells[0]}**"
        lines.append("| " + " | ".join(cells) + " |")
        if row.note:
            lines.append(
                "| " + _indent(row.depth) + f"**{_escape(row.note)}**" + " |" * len(table.columns)
            )
    for note in table.notes:
        lines += ["", _escape_line(note)]
    return lines


def _indent(depth: int) -> str:
    return "&nbsp;&nbsp;" * depth if depth <= _DEEPEST else "&nbsp;&nbsp;" * _DEEPEST + f"{depth}: "


def _escape(text: str) -> str:
    text = make_inert(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def _escape_line(text: str) -> str:
    """A line of its own: what would begin a list, a quote or a heading there is escaped too."""
    return _AT_LINE_START.sub(r"\1\\\2", _escape(text.strip()))
