"""The user's source files with their syntax trees, and changes of their text."""

import ast
import difflib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cnnprobe.crash.facts.trees import parse_text


@dataclass(frozen=True)
class TextChange:
    """New text in the place of some characters of a file."""

    path: str
    start: int
    end: int
    text: str


class UnknownPlaceError(Exception):
    """The line to change is not known."""


@dataclass(frozen=True)
class File:
    """A source file with its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    def offset(self, line: int, column: int) -> int:
        """Where a position of the syntax tree (columns in UTF-8 bytes) is in the text."""
        lines = self.text.splitlines(keepends=True)
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.expr | ast.stmt | ast.arg) -> tuple[int, int]:
        """First and last character of a node."""
        return self.offset(node.lineno, node.col_offset), self.offset(
            node.end_lineno or node.lineno, node.end_col_offset or 0
        )

    def source(self, node: ast.expr) -> str:
        """The text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def replace(self, node: ast.expr | ast.stmt, text: str) -> TextChange:
        """Another text in the place of a node."""
        return TextChange(self.path, *self.span(node), text)


def open_file(path: str) -> File:
    """A file of the user's, parsed; it is still there, and none of an installed library."""
    if not Path(path).is_file() or {"site-packages", "dist-packages"} & set(Path(path).parts):
        raise UnknownPlaceError
    text = Path(path).read_text(encoding="utf-8")
    return File(path, text, parse_text(text))


def list_changes(written: Callable[[], Iterable[TextChange]]) -> list[TextChange]:
    """Some changes, each once; none where they have no known line."""
    try:
        return _distinct(written())
    except (UnknownPlaceError, SyntaxError, OSError, TypeError, UnicodeDecodeError, IndexError):
        return []


def write_changes(written: Callable[[], Iterable[TextChange]]) -> str:
    """The unified diff of some changes; "" where they have no known line."""
    changes = list_changes(written)
    paths = {change.path for change in changes}
    return "".join(_unified(path, [c for c in changes if c.path == path]) for path in sorted(paths))


def _unified(path: str, changes: list[TextChange]) -> str:
    old = Path(path).read_text(encoding="utf-8")
    new = old
    for change in sorted(changes, key=lambda c: -c.start):
        new = new[: change.start] + change.text + new[change.end :]
    shown = (
        os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path.lstrip("/")
    )  # for `patch -p1 -d /`
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{shown}", f"b/{shown}"
    )
    return "".join(
        line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines
    )


def _distinct(changes: Iterable[TextChange]) -> list[TextChange]:
    """Each change once; two that overlap cannot both be made."""
    found = list(dict.fromkeys(changes))
    for i, a in enumerate(found):
        if any(overlap(a, b) for b in found[:i]):
            raise UnknownPlaceError
    return found


def overlap(a: TextChange, b: TextChange) -> bool:
    """Whether two changes are of the same characters, and not the same change."""
    return a != b and a.path == b.path and a.start < b.end and b.start < a.end
