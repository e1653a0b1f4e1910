"""A cause of crashes: how it is found, its page, and its example, a program with its correction.

A cause is one file in `causes`, which is found by itself. A user's own is a file given to
`load_causes`, or an entry point of the group "cnnprobe.causes".
"""

import functools
import importlib
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.suspect import (
    FALLBACK,
    LAST,
    POSSIBLE,
    STRONG,
    USUAL,
    Candidate,
    Candidates,
    Suspect,
    blame,
    propose,
)
from cnnprobe.diagnosis import Severity
from cnnprobe.diagnosis.discovery import find_entries, load_entries, read_page, read_sentence
from cnnprobe.errors import UsageError

__all__ = [
    "FALLBACK",
    "LAST",
    "POSSIBLE",
    "STRONG",
    "USUAL",
    "Candidate",
    "Candidates",
    "Cause",
    "Crash",
    "Example",
    "Suspect",
    "Suspects",
    "all_causes",
    "blame",
    "cause",
    "load_causes",
    "propose",
    "vary",
]

STAGES = ("forward", "loss", "backward", "step", "around")  # "around": anywhere but in the forward
HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"
Suspects = Iterator[Suspect]
Find = Callable[[Crash], Iterable[Suspect]]


@dataclass(frozen=True, slots=True)
class Example:
    """A program that crashes, and its correction, as one diff: "- " goes, "+ " comes instead.

    The program makes `model` and `args`, the arguments of the forward that raises; or `model` and
    a function `run(model)` that raises. torch, nn and F are imported for it, and the blank lines
    around its functions are added.
    """

    program: str
    blames: str | None = None  # fqn of the module to blame; None: no module
    repair: str = ""  # what the title of the first repair holds; "": no repair is known
    is_tried: bool = True  # the first repair was tried
    on_meta: bool = True  # it crashes on the meta device too, with the same explanation

    @property
    def sick(self) -> str:
        """The program as it crashes."""
        return self._write("-")

    @property
    def repaired(self) -> str:
        """The program as it runs."""
        return self._write("+")

    @property
    def diff(self) -> str:
        """The program with its correction, as a diff of the whole."""
        return "\n".join(f"    {line}".rstrip() for line in self._read())

    def _read(self) -> list[str]:
        lines = textwrap.dedent(self.program.strip("\n")).rstrip().splitlines()
        return list(_space([line for line in lines if line.strip()]))

    def _write(self, mark: str) -> str:
        kept = [line[2:] for line in self._read() if line[:1] in (mark, " ", "")]
        return HEAD + "\n".join(kept) + "\n"


def vary(program: str, right: str, wrong: str, repair: str, **options: Any) -> Example:
    """An example of a program, one part of which, a line or within a line, is written wrongly."""
    lines = textwrap.dedent(program.strip("\n")).rstrip().splitlines()
    (at,) = (i for i, line in enumerate(lines) if right in line)
    spoilt = lines[at].replace(right, wrong).splitlines()
    diff = [f"  {line}" for line in lines]
    diff[at : at + 1] = [*(f"- {line}" for line in spoilt), f"+ {lines[at]}"]
    return Example("\n".join(diff), repair=repair, **options)


def _space(lines: list[str]) -> Iterator[str]:
    """The lines of a diff of a program, with blank lines around its classes and functions."""
    last, is_block = "  ", False
    for line in lines:
        code, before = line[2:], last[2:]
        starts = code.lstrip().startswith(("def ", "class ", "@"))
        goes_on = not before or before.lstrip().startswith("@") or before.endswith(":")
        if goes_on or (last[0], line[0]) == ("-", "+"):
            yield from ()
        elif not code.startswith((" ", ")", "]", "}")):
            yield from ("", "") if starts or is_block else ()
        elif starts and code.startswith("    ") and code[4] != " ":
            yield ""
        if not code.startswith((" ", ")", "]", "}")):
            is_block = starts
        yield line
        last = line


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A way to crash. It yields what it suspects of a crash, or nothing."""

    code: str  # CP001 to CP099, then CP0A0 to CP0Z9
    name: str  # states the fault
    stages: tuple[str, ...]
    find: Find
    family: str = ""  # the wider name under which it was known before
    prior: int = 0  # of two suspects of one weight, that of the greater prior goes first
    explains: tuple[str, ...] = ()  # rules that find what follows from it
    decides: bool = False  # where it suspects something, no other cause is asked, nothing is tried
    examples: tuple[Example, ...] = ()

    @property
    def severity(self) -> Severity:
        """A crash is an error."""
        return Severity.ERROR

    @property
    def page(self) -> str:
        """The cause's page: the docstring of its function."""
        return read_page(self.find)

    @property
    def sentence(self) -> str:
        """The first sentence of the page."""
        return read_sentence(self.page)


def cause(
    code: str,
    name: str,
    examples: Example | tuple[Example, ...] = (),
    *,
    stage: str | tuple[str, ...] = "forward",
    family: str = "",
    prior: int = 0,
    explains: tuple[str, ...] = (),
    decides: bool = False,
) -> Callable[[Find], Cause]:
    """Make a Cause of a function that takes a Crash and yields Suspects.

    Raises:
        UsageError: the name is not kebab-case, or there is no such stage.
    """
    stages = (stage,) if isinstance(stage, str) else stage
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(
            f"a cause cannot be called {name!r}",
            where=f"cause {code}",
            fix="use kebab-case that states the fault: missing-flatten",
        )
    if strange := [each for each in stages if each not in STAGES]:
        raise UsageError(
            f"no stage called {strange[0]!r}", where=f"cause {code}", fix=f"one of {STAGES}"
        )
    given = (examples,) if isinstance(examples, Example) else examples

    def decorate(find: Find) -> Cause:
        return Cause(
            code=code,
            name=name,
            stages=stages,
            find=find,
            family=family,
            prior=prior,
            explains=explains,
            examples=given,
            decides=decides,
        )

    return decorate


@functools.cache
def all_causes() -> tuple[Cause, ...]:
    """Every cause that is built in or installed as an entry point, by code.

    Raises:
        UsageError: two causes have one code or one name.

    >>> [cause.code for cause in all_causes() if cause.name == "missing-flatten"]
    ['CP001']
    """
    return find_entries(importlib.import_module("cnnprobe.crash.causes"), "cnnprobe.causes", Cause)


def load_causes(paths: Iterable[str | os.PathLike[str]]) -> tuple[Cause, ...]:
    """The causes in the given Python files, or folders of them. Importing a file runs it."""
    return load_entries(paths, Cause)
