"""The errors that cnnprobe raises: what happened, where, and what to do.

ProbeError                  anything that cnnprobe reports by itself (exit code 3)
├── UsageError              the request cannot be understood (exit code 2)
│   └── UnknownNameError    a name that is not there; also a KeyError
├── TargetError             the model, its weights or its inputs could not be had (exit code 3)
└── CheckError              a check failed (exit code 1)
    └── NonFiniteError      a NaN or Inf was met where a monitor was told to stop at the first
"""

import contextlib
import difflib
import warnings
from collections.abc import Iterable


class ProbeError(Exception):
    """What happened, where, and what to do, kept as `what`, `where` and `fix`.

    >>> print(ProbeError("no such file", where="net.py", fix="check the path"))
    no such file
      where: net.py
      fix:   check the path
    """

    exit_code = 3

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(kind: type[ProbeError], what: str, where: str, fix: str) -> ProbeError:
    return kind(what, where=where, fix=fix)


class UsageError(ProbeError):
    """The request cannot be understood: a malformed option, an unknown format."""

    exit_code = 2


class UnknownNameError(UsageError, KeyError):
    """A name that is not there; the fix names the nearest ones."""


class TargetError(ProbeError):
    """The model, its weights or its inputs could not be had."""


class CheckError(ProbeError):
    """A check that was asked for failed."""

    exit_code = 1


class NonFiniteError(CheckError):
    """A NaN or Inf was met in a training run that is to stop at the first one."""


def warn(text: str, *, place: tuple[str, int] | None = None) -> None:
    """Say what ends no run, in a line of Python's warnings; where those are errors, the run goes on
    all the same. `place` is the file and line that it is about, where those are not the caller's.
    """
    with contextlib.suppress(Warning):
        if place is None:
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        else:
            warnings.warn_explicit(text, RuntimeWarning, *place)


def suggest(name: str, known: Iterable[str]) -> str:
    """A fix that names the known names nearest to `name`, or all of a few.

    >>> suggest("conv_1", ["conv1", "conv2", "fc"])
    "did you mean 'conv1' or 'conv2'?"
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near[:2]) + "?"
    if not names:
        return "there are none"
    shown = ", ".join(repr(n) for n in names[:8])
    return f"known are {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
