"""What is found by itself: rules and causes, each with a page, a code and a name.

They come from the modules of a package, from entry points, and from files of the user's own.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, Protocol, TypeVar

from cnnprobe.errors import UnknownNameError, UsageError, suggest


class NamedEntry(Protocol):
    """A rule or a cause."""

    @property
    def code(self) -> str:
        """CP and three digits."""

    @property
    def name(self) -> str:
        """Kebab-case; it states the fault."""

    @property
    def page(self) -> str:
        """What it is, why it matters, what to do."""

    @property
    def sentence(self) -> str:
        """The first line of the page."""


E = TypeVar("E", bound=NamedEntry)


def read_page(function: Callable[..., Any]) -> str:
    """The page of a rule or a cause: the docstring of its function, without its indent."""
    lines = (function.__doc__ or "").strip().splitlines()
    return "\n".join([*lines[:1], *(line.removeprefix("    ") for line in lines[1:])])


def read_sentence(page: str) -> str:
    r"""The first sentence of a page, as one line.

    >>> read_sentence("A ReLU whose output\nis zero.\n\nWhy it matters: ...")
    'A ReLU whose output is zero.'
    """
    return " ".join(page.partition("\n\n")[0].split())


def find_entries(package: ModuleType, group: str, kind: type[E]) -> tuple[E, ...]:
    """The entries in the modules of a package and in the entry points of a group, by code.

    Raises:
        UsageError: two of them have one code or one name.
    """
    found: list[E] = []
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        found += _entries_in(importlib.import_module(info.name), kind)
    for point in importlib.metadata.entry_points(group=group):
        loaded = point.load()
        found += _entries_in(loaded, kind) if isinstance(loaded, ModuleType) else [loaded]
    return sort_by_code(found)


def load_entries(paths: Iterable[str | os.PathLike[str]], kind: type[E]) -> tuple[E, ...]:
    """The entries in Python files, or in folders of them. Importing a file runs it.

    Raises:
        UsageError: there is no such file.
    """
    found: list[E] = []
    for path in map(pathlib.Path, paths):
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            found += _entries_in(_import_file(file), kind)
    return tuple(found)


def _import_file(file: pathlib.Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cnnprobe_rules_{file.stem}", file)
    if spec is None or spec.loader is None or not file.exists():
        raise UsageError(
            f"no rules in {str(file)!r}",
            where="--rules",
            fix="name a Python file that holds a rule or a cause, or a folder of them",
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _entries_in(module: ModuleType, kind: type[E]) -> list[E]:
    return [value for value in vars(module).values() if isinstance(value, kind)]


def sort_by_code(found: Iterable[E]) -> tuple[E, ...]:
    """Each entry once, by code.

    Raises:
        UsageError: two of them have one code or one name.
    """
    ordered = sorted({id(entry): entry for entry in found}.values(), key=lambda entry: entry.code)
    for attribute in ("code", "name"):
        values = [getattr(entry, attribute) for entry in ordered]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise UsageError(
                f"two rules have the {attribute} {twice[0]!r}",
                where="the rules",
                fix="give one of them another",
            )
    return tuple(ordered)


def find_entry(name: str, entries: Sequence[E]) -> E:
    """The entry of that name or code."""
    for entry in entries:
        if name in (entry.name, entry.code):
            return entry
    raise UnknownNameError(
        f"no rule called {name!r}",
        where="the rules",
        fix=suggest(name, [entry.name for entry in entries]),
    )
