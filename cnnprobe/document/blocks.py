"""What a report shows, as data: a few kinds of blocks that every format can render, and nothing of
how it looks.

All text is plain text as it came from the model; escaping is the renderers' work. Numbers stand in
the cells as numbers, and the column's unit says how they are written, so that a format that can
sort or compute still has them.
"""

from dataclasses import dataclass
from typing import Literal

from cnnprobe.records.trace import Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How the values of a tensor lie: drawn where a format can draw, in words elsewhere."""

    minimum: float
    mean: float
    std: float
    maximum: float
    zeros: float = 0.0  # fraction
    histogram: Histogram | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Numbers over time, NaN where there was none: a line where a format can draw, a row of bars
    elsewhere.
    """

    values: tuple[float, ...]


Cell = str | int | float | Spread | Trend | None
"""A cell: text as it is, a number to be written in the column's unit, a Spread, a Trend, or None
for what was not observed ("-").
"""

Unit = Literal["", "count", "si", "bytes", "value", "percent", "seconds"]
Severity = Literal["error", "warning", "info"]
Emphasis = Literal["", "error", "warning", "muted", "total"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """A title. Level 1 names the document, 2 its parts."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph; a newline in it is a line break."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names and what is to be said of them, one below the other: totals, the parts of an
    explanation.
    """

    pairs: tuple[tuple[str, str], ...]
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table. Where the width does not suffice, the column of highest `priority` goes
    first; one of priority 0 stays.

    A text may be cut down to `least` columns (0: it may not) before a column of priority 1 or 2
    goes, and columns of a higher priority go before a text of one that `is_whole` is cut. Of a
    column that `is_share` each number is a part of the largest one, the whole, which a
    format that can draw shows as a bar.
    """

    name: str
    align: Literal["left", "right"] = "left"
    priority: int = 0
    unit: Unit = ""
    least: int = 0
    is_share: bool = False
    is_whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row: one cell a column, the nesting depth of its first cell, and a note that stands below
    it across the table.

    Its `key` is letters and digits, unique in the document: where the same thing is drawn or spoken
    of, `key` says so too.
    """

    cells: tuple[Cell, ...]
    depth: int = 0
    emphasis: Emphasis = ""
    note: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns; `notes` explain below it what its signs mean."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of a whole; `key` is that of the row where it stands."""

    name: str
    number: float
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What a whole is made of, in the order of the model: a bar where a format can draw, the
    largest parts in words elsewhere.
    """

    title: str
    unit: Unit
    parts: tuple[Share, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawing as SVG (made and escaped by this package, it goes into a page as it is), and the
    same in words.
    """

    svg: str
    alt: str
    caption: str = ""
    is_chart: bool = False  # small, and seen together with its neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something to be noticed: what, where and what to do about it."""

    severity: Severity
    text: str
    where: str = ""
    fix: str = ""
    code: str = ""
    key: str = ""  # of the row that it is about


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Source text, a traceback, a diff: kept line by line."""

    text: str
    language: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Blocks behind a title: closed at first in formats that can open and close, written out in the
    others.
    """

    title: str
    blocks: "tuple[Heading | Text | Facts | Table | Shares | Picture | Notice | Code, ...]"


Block = Heading | Text | Facts | Table | Shares | Picture | Notice | Code | Folded


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What is shown, in reading order."""

    blocks: tuple[Block, ...] = ()
    title: str = ""
