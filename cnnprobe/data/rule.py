"""A rule of the data: its check, its page, and its examples, a sick and a healthy loader, which are
its tests.

A rule is one file in `rules`, which is found by itself. A user's own is a file given to
`load_data_rules`, or an entry point of the group "cnnprobe.data_rules".
"""

import dataclasses
import functools
import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.diagnosis import Diagnosis, Finding, Severity, in_order, split_ignored
from cnnprobe.diagnosis.discovery import (
    find_entries,
    load_entries,
    read_page,
    read_sentence,
    sort_by_code,
)
from cnnprobe.errors import UsageError

Check = Callable[[Data], Iterable[Finding]]
Example = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRule:
    """A fault of the data. Its check yields findings, or nothing."""

    code: str  # CP8xx
    name: str  # states the fault
    severity: Severity
    check: Check
    sick: Example | None = None  # keyword arguments of `inspect_data`
    healthy: Example | None = None
    explains: tuple[str, ...] = ()  # rules, also of the model, whose findings are but symptoms

    @property
    def page(self) -> str:
        """The rule's page: the docstring of its check."""
        return read_page(self.check)

    @property
    def sentence(self) -> str:
        """The first sentence of the page."""
        return read_sentence(self.page)


def data_rule(
    *,
    code: str,
    name: str,
    severity: Severity = Severity.WARNING,
    examples: tuple[Example, Example] | None = None,
    explains: tuple[str, ...] = (),
) -> Callable[[Check], DataRule]:
    """Make a DataRule of a function that takes Data and yields Findings.

    Raises:
        UsageError: the name is not kebab-case.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(
            f"a rule cannot be called {name!r}",
            where=f"rule {code}",
            fix="use kebab-case that states the fault: unseen-classes",
        )
    sick, healthy = examples if examples is not None else (None, None)

    def decorate(check: Check) -> DataRule:
        return DataRule(
            code=code, name=name, severity=severity, check=check, sick=sick, healthy=healthy,
            explains=explains,
        )  # fmt: skip

    return decorate


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


def run_data_rules(
    data: Data, rules: Iterable[DataRule], *, ignore: Mapping[str, str] | None = None
) -> Diagnosis:
    """Run every rule over the data; a rule that raises is noted and the others go on.

    Args:
        data: what was read.
        rules: the rules to run.
        ignore: rule name or code to the reason why its findings are suppressed.
    """
    found: list[Finding] = []
    notes: list[str] = []
    rules = tuple(rules)
    for each in rules:
        try:
            for finding in each.check(data):
                severity = finding.severity or each.severity
                found.append(
                    dataclasses.replace(finding, rule=each.name, code=each.code, severity=severity)
                )
        except Exception as error:  # one rule's mistake must not hide what the others found
            notes.append(f"rule {each.name} could not judge: {type(error).__name__}: {error}")
    kept, suppressed = split_ignored(found, ignore or {})
    ordered = in_order(kept, rules)  # type: ignore[arg-type] # reads names and explains alone
    return Diagnosis(findings=ordered, suppressed=suppressed, notes=tuple(notes))


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
