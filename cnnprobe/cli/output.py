"""The result on stdout or in a file."""

import os
import sys
from pathlib import Path

import click

from cnnprobe.cli.options import OutputRequest, choose_format
from cnnprobe.cli.program import tell
from cnnprobe.errors import UsageError


def check_file(wished: OutputRequest) -> None:
    """Raises UsageError, before anything has run, where the result could not be written."""
    choose_format(wished)
    if wished.file is None:
        return
    path = Path(wished.file)
    if path.is_dir():
        raise _make_unwritable_error(path, "it is a folder")
    if not path.parent.is_dir():
        raise _make_unwritable_error(path, f"there is no folder {str(path.parent)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise _make_unwritable_error(path, "permission denied")


def _make_unwritable_error(path: Path | str | None, reason: str) -> UsageError:
    where = "stdout" if path is None else f"-o {path}"
    return UsageError(
        f"the result cannot be written: {reason}",
        where=where,
        fix="name a file in a folder that you can write to: -o FILE",
    )


def is_coloured(wished: OutputRequest) -> bool:
    """Whether the result is looked at on a terminal that may show colours
    (https://no-color.org).
    """
    return (
        wished.file is None
        and sys.stdout is not None
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )


def write(text: str, wished: OutputRequest) -> None:
    """Write finished text to the file that was asked for, or to stdout."""
    text = text.rstrip("\n") + "\n"
    try:
        if wished.file is None:
            click.echo(text, nl=False)
            return
        Path(wished.file).write_text(text, encoding="utf-8", errors="backslashreplace")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _make_unwritable_error(wished.file, error.strerror or str(error)) from error
    tell(f"wrote {wished.file}")
