"""A rule of ranks: its check, its page, and its examples, which run on two ranks and are its tests.

A rule is one file in `rules`, which is found by itself. A user's own is a file given to
`load_rank_rules`, or an entry point of the group "cnnprobe.rank_rules".
"""

import dataclasses
import functools
import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis import Diagnosis, Finding, Severity, in_order, split_ignored
from cnnprobe.diagnosis.discovery import (
    find_entries,
    load_entries,
    read_page,
    read_sentence,
    sort_by_code,
)
from cnnprobe.errors import UsageError
from cnnprobe.ranks.runs import Ranks

Check = Callable[[Ranks], Iterable[Finding]]
Example = Callable[[int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRule:
    """A fault that shows between ranks. Its check yields findings, or nothing."""

    code: str  # CP9xx
    name: str  # states the fault
    severity: Severity
    check: Check
    # of a rank: "model", "optimizer", and "step", a function of the number of a training step
    sick: Example | None = None
    healthy: Example | None = None
    explains: tuple[str, ...] = ()  # rules whose findings are but symptoms

    @property
    def page(self) -> str:
        """The rule's page: the docstring of its check."""
        return read_page(self.check)

    @property
    def sentence(self) -> str:
        """The first sentence of the page."""
        return read_sentence(self.page)


def rank_rule(
    *,
    code: str,
    name: str,
    severity: Severity = Severity.WARNING,
    examples: tuple[Example, Example] | None = None,
    explains: tuple[str, ...] = (),
) -> Callable[[Check], RankRule]:
    """Make a RankRule of a function that takes Ranks and yields Findings.

    Raises:
        UsageError: the name is not kebab-case.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(
            f"a rule cannot be called {name!r}",
            where=f"rule {code}",
            fix="use kebab-case that states the fault: ranks-diverged",
        )
    sick, healthy = examples if examples is not None else (None, None)

    def decorate(check: Check) -> RankRule:
        return RankRule(
            code=code, name=name, severity=severity, check=check, sick=sick, healthy=healthy,
            explains=explains,
        )  # fmt: skip

    return decorate


@functools.cache
def all_rank_rules() -> tuple[RankRule, ...]:
    """Every rule of ranks that is built in or installed as an entry point, by code.

    >>> [rule.name for rule in all_rank_rules() if rule.code == "CP901"]
    ['ranks-diverged']
    """
    rules = importlib.import_module("cnnprobe.ranks.rules")
    return find_entries(rules, "cnnprobe.rank_rules", RankRule)


def load_rank_rules(paths: Iterable[str | os.PathLike[str]]) -> tuple[RankRule, ...]:
    """All rules of ranks and those in the given files, or folders of them. Importing a file runs
    it.
    """
    return sort_by_code((*all_rank_rules(), *load_entries(paths, RankRule)))


def run_rank_rules(
    ranks: Ranks, rules: Iterable[RankRule], *, ignore: Mapping[str, str] | None = None
) -> Diagnosis:
    """Run every rule over the ranks; a rule that raises is noted and the others go on.

    Args:
        ranks: what the ranks have left.
        rules: the rules to run.
        ignore: rule name or code to the reason why its findings are suppressed.
    """
    found: list[Finding] = []
    notes: list[str] = []
    rules = tuple(rules)
    for each in rules:
        try:
            for finding in each.check(ranks):
                severity = finding.severity or each.severity
                found.append(
                    dataclasses.replace(finding, rule=each.name, code=each.code, severity=severity)
                )
        except Exception as error:  # one rule's mistake must not hide what the others found
            notes.append(f"rule {each.name} could not judge: {type(error).__name__}: {error}")
    kept, suppressed = split_ignored(found, ignore or {})
    ordered = in_order(kept, rules)  # type: ignore[arg-type] # reads names and explains alone
    return Diagnosis(findings=ordered, suppressed=suppressed, notes=tuple(notes))
