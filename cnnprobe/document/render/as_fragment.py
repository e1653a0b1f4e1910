"""A document as an HTML fragment for notebooks: no script, everything escaped, readable where
styles are stripped.

Real tables with captions and scopes, `<details>` for what is folded, colours of the host's theme in
light and dark. The style element stands last, because some viewers show it as text; where it says
!important, JupyterLab's own style for tables says otherwise.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from cnnprobe.document.blocks import (
    Block,
    Cell,
    Code,
    Document,
    Facts,
    Folded,
    Heading,
    Notice,
    Picture,
    Row,
    Shares,
    Spread,
    Table,
    Text,
    Trend,
)
from cnnprobe.document.render.distributions import Axis, draw_spread, fit_axis
from cnnprobe.document.render.trends import draw_trend
from cnnprobe.document.render.units import (
    describe_shares,
    format_cell,
    make_inert,
    split_inert_lines,
)

SUFFIXES = ()  # a piece for notebooks; a file is a whole page, see as_html
_OPEN_ROWS = 80  # a table of more rows shows its upper levels, and each subtree behind a click
_DEEPEST = 20  # steps of indentation; a deeper row says its depth
_DARK = ", ".join(
    f":where({selector}) .cnnprobe"
    for selector in (
        "html[theme=dark]",
        "[data-theme=dark]",
        "[data-jp-theme-light=false]",
        "[data-bs-theme=dark]",
        ".vscode-dark",
        ".dark",
    )
)
_STYLE = f"""
.cnnprobe {{ color: var(--jp-ui-font-color1, var(--vscode-editor-foreground, light-dark(#1b1f24, #e6e6e6))); font-size: 13px; overflow-x: auto }}
{_DARK} {{ color-scheme: dark }}
.cnnprobe table {{ border-collapse: collapse; margin: .5em 0; font-variant-numeric: tabular-nums }}
.cnnprobe caption {{ text-align: left; font-weight: bold; padding: .3em 0 }}
.cnnprobe th, .cnnprobe td {{ text-align: left !important; font-weight: normal; padding: 1px 10px 1px 0 !important; white-space: nowrap; max-width: none !important }}
.cnnprobe thead th {{ border-bottom: 1px solid; font-weight: bold }}
.cnnprobe [align=right] {{ text-align: right !important }}
.cnnprobe .facts td, .cnnprobe td[colspan] {{ white-space: normal; overflow-wrap: anywhere }}
.cnnprobe .facts th {{ vertical-align: top }}
.cnnprobe svg {{ vertical-align: middle }}
.cnnprobe .muted {{ opacity: .65 }}
.cnnprobe .total th, .cnnprobe .total td, .cnnprobe .error th, .cnnprobe .error td {{ font-weight: bold }}
.cnnprobe .error th, .cnnprobe .error td, .cnnprobe strong.error {{ color: light-dark(#b3001b, #ff8f8f) }}
.cnnprobe .warning th, .cnnprobe .warning td, .cnnprobe strong.warning {{ color: light-dark(#7a4d00, #ffc46b) }}
.cnnprobe figure {{ display: inline-block; margin: .4em 1em .4em 0; vertical-align: top }}
.cnnprobe pre {{ white-space: pre-wrap }}
"""  # noqa: E501


def render_document(document: Document, *, width: int | None = None, colour: bool = False) -> str:  # noqa: ARG001
    """One `<div class="cnnprobe">` that stands alone, safe inside any page."""
    body = "\n".join(part for block in document.blocks for part in _render_block(block))
    return f'<div class="cnnprobe">\n{body}\n<style>{_STYLE}</style>\n</div>\n'


def _render_block(block: Block) -> Iterable[str]:
    match block:
        case Heading():
            level = min(max(block.level + 1, 2), 6)  # the page around it has its own h1
            return [f"<h{level}>{_make_safe(block.text)}</h{level}>"]
        case Text():
            return [f"<p>{_render_lines(block.text)}</p>"]
        case Facts():
            return _render_facts(block)
        case Table():
            return _render_tables(block)
        case Shares():
            return _render_facts(describe_shares(block))
        case Picture():
            return _render_picture(block)
        case Notice():
            return _render_notice(block)
        case Code():
            return _render_code(block)
        case Folded():
            inner = "\n".join(part for one in block.blocks for part in _render_block(one))
            return [f"<details><summary>{_make_safe(block.title)}</summary>\n{inner}\n</details>"]


def _render_facts(facts: Facts) -> Iterator[str]:
    caption = f"<caption>{_make_safe(facts.title)}</caption>" if facts.title else ""
    rows = "\n".join(
        f'<tr><th scope="row">{_make_safe(name)}</th><td>{_render_lines(said)}</td></tr>'
        for name, said in facts.pairs
    )
    yield f'<table class="facts">{caption}<tbody>\n{rows}\n</tbody></table>'


def _render_picture(picture: Picture) -> Iterator[str]:
    caption = f"<figcaption>{_make_safe(picture.caption)}</figcaption>" if picture.caption else ""
    yield (
        f'<figure role="img" aria-label="{_make_safe(picture.alt)}">{caption}{picture.svg}</figure>'
    )


def _render_notice(notice: Notice) -> Iterator[str]:
    code = f" {notice.code}" if notice.code else ""
    more = [
        f"<br>{name}: {_render_lines(said)}"
        for name, said in (("where", notice.where), ("fix", notice.fix))
        if said
    ]
    yield (
        "<p><strong "
        f'class="{_make_safe(notice.severity)}">{_make_safe(notice.severity)}{_make_safe(code)}: '
        f"{_render_lines(notice.text)}</strong>{''.join(more)}</p>"
    )


def _render_code(code: Code) -> Iterator[str]:
    if code.title:
        yield f"<p><strong>{_make_safe(code.title)}</strong></p>"
    text = "\n".join(escape(line) for line in split_inert_lines(code.text))
    yield f"<pre><code>{text}</code></pre>"


def _render_tables(table: Table) -> Iterator[str]:
    level = _find_open_level(table.rows)
    if level is None:
        yield _render_table(table, table.title, table.rows, notes=True)
        return
    yield _render_table(
        table, table.title, [row for row in table.rows if row.depth <= level], notes=True
    )
    for title, rows in _split_subtrees(table.rows, level):
        # what went wrong is never hidden
        opened = " open" if any(row.emphasis in ("error", "warning") for row in rows) else ""
        yield (
            f"<details{opened}><summary>{_make_safe(title)}: {len(rows)} "
            f"rows</summary>\n{_render_table(table, title, rows, notes=False)}\n</details>"
        )


def _find_open_level(rows: Sequence[Row]) -> int | None:
    """The deepest level down to which at most `_OPEN_ROWS` rows stand, at least 1; None where all
    do.
    """
    if len(rows) <= _OPEN_ROWS:
        return None
    level, shown = -1, 0
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.depth] = counts.get(row.depth, 0) + 1
    while level + 1 in counts and (shown := shown + counts[level + 1]) <= _OPEN_ROWS:
        level += 1
    return max(level, 1) if any(depth > max(level, 1) for depth in counts) else None


def _split_subtrees(rows: Sequence[Row], level: int) -> Iterator[tuple[str, list[Row]]]:
    """Each row of `level` that has rows below it: its path (without the top row) with its kind, and
    those rows.
    """
    below: list[Row] = []
    path: list[str] = []
    title = ""
    for row in rows:
        if row.depth > level:
            below.append(row)
            continue
        if below:
            yield title, below
        below = []
        names = [format_cell(cell, "") for cell in row.cells[:2]]
        path = [*path[: row.depth], names[0]]
        title = " ".join((" / ".join(path[1:] or path), *(name for name in names[1:] if name)))
    if below:
        yield title, below


def _render_table(table: Table, title: str, rows: Sequence[Row], *, notes: bool) -> str:
    names = "".join(
        f'<th scope="col"{_align(column.align)}>{_make_safe(column.name)}</th>'
        for column in table.columns
    )
    parts = [
        f"<table><caption>{_make_safe(title)}</caption>" if title else "<table>",
        f"<thead><tr>{names}</tr></thead>",
        "<tbody>",
    ]
    axis = fit_axis(table)
    parts += [line for row in rows for line in _render_row(table, row, axis)]
    parts.append("</tbody></table>")
    if notes:
        parts += [f'<p class="muted">{_make_safe(note)}</p>' for note in table.notes]
    return "\n".join(parts)


def _render_row(table: Table, row: Row, axis: Axis) -> Iterator[str]:
    kind = f' class="{row.emphasis}"' if row.emphasis else ""
    first, *others = (
        (_draw_cell(cell, axis) or _make_safe(format_cell(cell, column.unit)), _align(column.align))
        for cell, column in zip(row.cells, table.columns, strict=True)
    )
    cells = "".join(f"<td{numeric}>{text}</td>" for text, numeric in others)
    yield f'<tr{kind}><th scope="row">{_indent(row.depth)}{first[0]}</th>{cells}</tr>'
    if row.note:
        yield (
            f'<tr{kind}><td colspan="{len(table.columns)}">{_indent(row.depth + 1)}^ '
            f"{_render_lines(row.note)}</td></tr>"
        )


def _draw_cell(cell: Cell, axis: Axis) -> str:
    if isinstance(cell, Spread):
        return draw_spread(cell, axis)
    return draw_trend(cell.values) if isinstance(cell, Trend) else ""


def _align(align: str) -> str:
    return ' align="right"' if align == "right" else ""


def _indent(depth: int) -> str:
    return "&emsp;" * depth if depth <= _DEEPEST else "&emsp;" * _DEEPEST + f"{depth}: "


def _make_safe(text: str) -> str:
    return escape(make_inert(text))


def _render_lines(text: str) -> str:
    return "<br>".join(escape(line) for line in split_inert_lines(text))
