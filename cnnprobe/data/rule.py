"""A rule of the data: its check, its page, and its examples, a sick and a healthy loader, which are
its tests.

A rule is one file in `rules`, which is found by itself. A user's own is a file given to
`load_data_rules`, or an entry point of the group "cnnprobe.data_rules".
"""

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.diagnosis import Examples, Finding, NamedRule, Severity, define_rule, in_order
from cnnprobe.diagnosis.discovery import find_entries, load_entries, sort_by_code

Check = Callable[[Data], Iterable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRule(NamedRule):
    """A fault of the data. Its examples give the keyword arguments of `inspect_data`."""


def data_rule(
    *,
    code: str,
    name: str,
    severity: Severity = Severity.WARNING,
    examples: Examples | None = None,
    explains: tuple[str, ...] = (),
) -> Callable[[Check], DataRule]:
    """Make a DataRule of a function that takes Data and yields Findings.

    Raises:
        UsageError: the name is not kebab-case.
    """
    return define_rule(DataRule, name, examples, code=code, severity=severity, explains=explains)


@functools.cache
def all_data_rules() -> tuple[DataRule, ...]:
    """Every rule of the data that is built in or installed as an entry point, by code.

    >>> [rule.name for rule in all_data_rules() if rule.code == "CP801"]
    ['sizes-differ']
    """
    rules = importlib.import_module("cnnprobe.data.rules")
    return find_entries(rules, "cnnprobe.data_rules", DataRule)


def load_data_rules(paths: Iterable[str | os.PathLike[str]]) -> tuple[DataRule, ...]:
    """All rules of the data and those in the given files, or folders of them. Importing a file runs
    it.
    """
    return sort_by_code((*all_data_rules(), *load_entries(paths, DataRule)))


def join_findings(
    of_data: Sequence[Finding], of_model: Sequence[Finding], rules: Sequence[Any]
) -> tuple[Finding, ...]:
    """The findings of the data and of the model in one order, those of the model linked to what
    explains them.

    Unscaled images are info for a model that scales them by itself: one whose own inputs are in
    range.
    """
    found = {finding.rule for finding in of_model}
    scaled = "input-range" not in found
    ours = [
        dataclasses.replace(f, severity=Severity.INFO)
        if f.rule == "unscaled-images" and scaled
        else f
        for f in of_data
    ]
    return in_order((*ours, *of_model), rules)
