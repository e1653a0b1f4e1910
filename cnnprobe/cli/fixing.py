"""Writes fixes into the user's files: `cnnprobe diagnose --fix` and `cnnprobe probe --fix`. Never
an installed package's, never a file that has changed since.
"""

import linecache
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cnnprobe.cli.program import tell
from cnnprobe.diagnosis import Finding, Tried, Verdict
from cnnprobe.records.explanation import Explanation, Repair

_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True, slots=True)
class Hunk:
    """Some lines of a file, and what is to stand there instead; `line` is that of the first, from
    0.
    """

    path: Path
    line: int
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Fix:
    """What is written: what it mends, what is changed, and the unified diff."""

    name: str  # of the rule or the cause
    title: str
    patch: str


def choose_repair(explanation: Explanation | None) -> Repair | None:
    """The best repair of a crash whose line is known and that gives what is wanted."""
    repairs = explanation.repairs if explanation is not None else ()
    return next((r for r in repairs if r.patch and r.works and r.plausible), None)


def choose_fixes(
    findings: Iterable[Finding], *, unsafe: bool, together: Tried | None = None
) -> list[Fix]:
    """The findings whose fix can be written: the proven ones, with `unsafe` the others and those
    that only tidy up too; as one where a patch makes all of them together.
    """
    findings = tuple(findings)
    proven = [f for f in findings if f.tried is not None and f.tried.verdict is Verdict.PROVEN]
    if not unsafe and together is not None and together.patch:
        mending = [f.rule for f in proven if f.tried is not None and not f.tried.tidies]
        names = ", ".join(dict.fromkeys(mending))
        return [Fix(names, together.title, together.patch)]
    return [
        Fix(finding.rule, finding.tried.title, finding.tried.patch)
        for finding in findings
        if finding.tried is not None
        and finding.tried.patch
        and (unsafe or (finding.tried.verdict is Verdict.PROVEN and not finding.tried.tidies))
    ]


def write_fixes(fixes: Iterable[Fix], imported: float) -> list[Path]:
    """Make the fixes, each as a whole or not at all; the files that were written.

    Args:
        fixes: with their patches.
        imported: the time before which a file has to have been last written, in seconds.
    """
    written: dict[Path, None] = {}
    for fix in fixes:
        hunks = read_hunks(fix.patch)
        why = refuse(hunks, imported, written)
        texts = None if why else _apply(hunks)
        if texts is None:
            tell(f"note: {fix.name} was not fixed: {why or 'the lines are not as they were'}")
            continue
        for path, text in texts.items():
            _replace(path, text)
            written[path] = None
            tell(f"fixed {fix.name} in {os.path.relpath(path)}: {fix.title}")
    return list(written)


def read_hunks(patch: str) -> list[Hunk]:
    """The hunks of a unified diff."""
    found: list[Hunk] = []
    path, line, old, new = Path(), 0, "", ""
    for row in [*patch.splitlines(keepends=True), "@@ end"]:
        if row.startswith(("@@", "---")) and (old or new):
            found.append(Hunk(path, line, old, new))
            old = new = ""
        if row.startswith("+++ b/"):
            path = _find_file(row[6:].rstrip("\n"))
        elif row.startswith("@@ -"):
            line = max(0, int(re.findall(r"\d+", row)[0]) - 1)
        elif row[0] in " -+" and not row.startswith("---"):
            old += row[1:] if row[0] in " -" else ""
            new += row[1:] if row[0] in " +" else ""
    return found


def _find_file(shown: str) -> Path:
    """A path of a diff: relative to here, or to the root."""
    here = Path(shown)
    return (here if here.is_file() else Path("/", shown)).resolve()


def refuse(hunks: list[Hunk], imported: float, written: Iterable[Path]) -> str:
    """Why these may not be written; "" where they may."""
    for hunk in hunks:
        shown = os.path.relpath(hunk.path)
        if not hunk.path.is_file():
            return f"{shown} is not there"
        if _INSTALLED & set(hunk.path.parts):
            return f"{shown} is a file of an installed package"
        if hunk.path not in written and hunk.path.stat().st_mtime >= imported:
            return f"{shown} has changed since it was imported"
    return "" if hunks else "it changes nothing"


def _apply(hunks: list[Hunk]) -> dict[Path, str] | None:
    """The new texts of the files; None where a hunk's lines are not there exactly once."""
    texts: dict[Path, str] = {}
    for hunk in hunks:
        text = texts.get(hunk.path)
        if text is None:
            text = hunk.path.read_bytes().decode("utf-8")
        if text.count(hunk.old) != 1:
            return None
        texts[hunk.path] = text.replace(hunk.old, hunk.new)
    return texts


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole, with what it was beside it; the first .orig is kept."""
    from cnnprobe.report import write_file

    original = path.with_name(path.name + ".orig")
    if not original.exists():
        original.write_bytes(path.read_bytes())
    mode = path.stat().st_mode
    write_file(path, text)
    path.chmod(mode)


def forget(paths: Iterable[Path]) -> None:
    """Import these files again, the next time that they are needed."""
    gone = {str(path) for path in paths}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and str(Path(file).resolve()) in gone:
            del sys.modules[name]
    linecache.checkcache()
