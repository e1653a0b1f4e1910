"""An explanation as a note on the user's own exception (PEP 678): a few lines for a terminal."""

import contextlib

from cnnprobe.crash.facts.words import shorten
from cnnprobe.records.explanation import Explanation

_MOST_REPAIRS = 2
_SIGN = "cnnprobe: "


def brief(explanation: Explanation) -> str:
    """At most seven lines: the diagnosis, what is wrong, the numbers, where, the best repairs."""
    blamed = (
        ""
        if explanation.module is None
        else f" in '{explanation.module}'"
        if explanation.module
        else " in the model itself"
    )
    kind = f" ({explanation.kind})" if explanation.kind and blamed else ""
    lines = [f"{_SIGN}{explanation.diagnosis}{blamed}{kind}", f"  {explanation.message}"]
    if explanation.arithmetic:
        lines.append(f"  {explanation.arithmetic}")
    if explanation.source:
        lines.append(
            f"  at {shorten(explanation.source)}"
            + (f": {explanation.line}" if explanation.line else "")
        )
    repairs = explanation.repairs[:_MOST_REPAIRS]
    lines += [f"  fix: {repair.title} ({repair.outcome})" for repair in repairs]
    return "\n".join(lines)


def add_note(error: BaseException, explanation: Explanation | None) -> None:
    """Add the explanation to the exception, once, where it takes notes."""
    if explanation is None:
        return
    with contextlib.suppress(Exception):
        if not any(str(note).startswith(_SIGN) for note in getattr(error, "__notes__", ())):
            error.add_note(brief(explanation))
