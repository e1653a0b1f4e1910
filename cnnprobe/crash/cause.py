"""A cause of crashes: how it is found, its page, and its example, a program with its correction.

A cause is one file in `causes`, which is found by itself. A user's own is a file given to
`load_causes`, or an entry point of the group "cnnprobe.causes".
"""

import difflib
import functools
import importlib
import os
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.suspect import Suspect
from cnnprobe.diagnosis import Severity
from cnnprobe.diagnosis.discovery import find_entries, load_entries, read_page, read_sentence
from cnnprobe.errors import UsageError

STAGES = ("forward", "loss", "backward", "step", "around")  # "around": anywhere but in the forward
HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"
Find = Callable[[Crash], Iterable[Suspect]]


@dataclass(frozen=True, slots=True)
class Example:
    """A program that crashes, and what corrects it: `new` in the place of `old`.

    The program makes `model` and `args`, the arguments of the forward that raises; or `model` and
    a function `run(model)` that raises. torch, nn and F are imported for it.
    """

    program: str
    old: str
    new: str
    blames: str | None = None  # fqn of the module to blame; None: no module
    repair: str = ""  # what the title of the first repair holds; "": no repair is known
    is_tried: bool = True  # the first repair was tried
    on_meta: bool = True  # it crashes on the meta device too, with the same explanation

    @property
    def sick(self) -> str:
        """The program as it crashes."""
        return HEAD + textwrap.dedent(self.program).strip() + "\n"

    @property
    def repaired(self) -> str:
        """The program as it runs."""
        if self.sick.count(self.old) != 1:
            raise UsageError(
                f"{self.old!r} stands {self.sick.count(self.old)} times in the example",
                where="Example",
                fix="name a part that stands in it once",
            )
        return self.sick.replace(self.old, self.new)

    @property
    def diff(self) -> str:
        """The program with its correction, as a diff of the whole."""
        before, after = self.sick.splitlines(), self.repaired.splitlines()
        lines = list(
            difflib.ndiff(before[len(HEAD.splitlines()) :], after[len(HEAD.splitlines()) :])
        )
        return "\n".join(f"    {line}".rstrip() for line in lines if not line.startswith("?"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A way to crash. It yields what it suspects of a crash, or nothing."""

    code: str  # CP001 to CP099, then CP0A0 to CP0Z9
    name: str  # states the fault
    stages: tuple[str, ...]
    find: Find
    family: str = ""  # the wider name under which it was known before
    prior: int = 0  # of two suspects of one weight, that of the greater prior goes first
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
    *,
    code: str,
    name: str,
    stage: str | tuple[str, ...] = "forward",
    family: str = "",
    prior: int = 0,
    examples: Example | tuple[Example, ...] = (),
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
            examples=given,
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
    causes = importlib.import_module("cnnprobe.crash.causes")
    return find_entries(causes, "cnnprobe.causes", Cause)


def load_causes(paths: Iterable[str | os.PathLike[str]]) -> tuple[Cause, ...]:
    """The causes in the given Python files, or folders of them. Importing a file runs it."""
    return load_entries(paths, Cause)
