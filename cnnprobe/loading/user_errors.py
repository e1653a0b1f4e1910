"""How a failure in the user's own code or file is told: its kind, its line, in one message."""

import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).resolve().parent)
_INSTALLED = (
    sysconfig.get_path("purelib"),
    sysconfig.get_path("platlib"),
    sysconfig.get_path("stdlib"),
)


class TargetWarning(UserWarning):
    """Something about a model, its weights or its inputs that the user should know before trusting
    the result.
    """


def describe_error(error: BaseException) -> str:
    """The kind and the first line of an exception, as one line.

    >>> describe_error(ValueError("no such size"))
    'ValueError: no such size'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def find_user_line(error: BaseException) -> str:
    """The innermost line of the user's own code that an exception passed, "net.py:12"; "" where it
    passed none.

    A line of a file is the user's if that file is neither ours, nor Python's, nor installed;
    failing that, the innermost of all.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith((_OURS, "<"))
    ]
    own = [f for f in frames if not f.filename.startswith(_INSTALLED)]
    innermost = (own or frames)[-1:]
    return f"{innermost[0].filename}:{innermost[0].lineno}" if innermost else ""
