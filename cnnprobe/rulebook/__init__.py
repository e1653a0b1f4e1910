"""The rules, one a file: the check, its page as the docstring, and a sick and a healthy example that are its tests.

A new rule is a new file here; it is found by itself. A user's own is a file given to `load_rules`, or an entry point of the group "cnnprobe.rules".
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from cnnprobe.diagnosis import Rule
from cnnprobe.errors import UsageError

__all__ = ["all_rules", "load_rules"]


@functools.cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule that is built in or installed as an entry point, by code.

    Raises:
        UsageError: two rules have one code or one name.

    >>> [rule.name for rule in all_rules() if rule.code == "CP101"]
    ['dead-relu']
    """
    found: list[Rule] = []
    for info in pkgutil.iter_modules(__path__):
        found.extend(_rules_in(importlib.import_module(f"{__name__}.{info.name}")))
    for point in importlib.metadata.entry_points(group="cnnprobe.rules"):
        loaded = point.load()
        found.extend(_rules_in(loaded) if isinstance(loaded, ModuleType) else [loaded])
    return _checked(found)


def load_rules(paths: Iterable[str | os.PathLike[str]]) -> tuple[Rule, ...]:
    """All rules and those in the given Python files or folders of them. Importing a rule file runs it."""
    found = list(all_rules())
    for path in map(pathlib.Path, paths):
        files = sorted(path.glob("*.py")) if path.is_dir() else [path]
        for file in files:
            spec = importlib.util.spec_from_file_location(f"cnnprobe_rules_{file.stem}", file)
            if spec is None or spec.loader is None or not file.exists():
                raise UsageError(
                    f"no rules in {str(file)!r}",
                    where="--rules",
                    fix="name a Python file that holds a rule, or a folder of them",
                )
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found.extend(_rules_in(module))
    return _checked(found)


def _rules_in(module: ModuleType) -> list[Rule]:
    return [value for value in vars(module).values() if isinstance(value, Rule)]


def _checked(found: list[Rule]) -> tuple[Rule, ...]:
    ordered = sorted({id(rule): rule for rule in found}.values(), key=lambda rule: rule.code)
    for attribute in ("code", "name"):
        values = [getattr(rule, attribute) for rule in ordered]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise UsageError(
                f"two rules have the {attribute} {twice[0]!r}",
                where="the rules",
                fix="give one of them another",
            )
    return tuple(ordered)
