"""A rule of ranks: its check, its page, and its examples, which run on two ranks and are its tests.

A rule is one file in `rules`, which is found by itself. A user's own is a file given to
`load_rank_rules`, or an entry point of the group "cnnprobe.rank_rules".
"""

import functools
import importlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cnnprobe.diagnosis import Examples, Finding, NamedRule, Severity, define_rule
from cnnprobe.diagnosis.discovery import find_entries, load_entries, sort_by_code
from cnnprobe.ranks.runs import Ranks

Check = Callable[[Ranks], Iterable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRule(NamedRule):
    """A fault that shows between ranks.

    Its examples take the number of a rank, and give its "model", "optimizer" and "step", a
    function of the number of a training step.
    """


def rank_rule(
    *,
    code: str,
    name: str,
    severity: Severity = Severity.WARNING,
    examples: Examples | None = None,
    explains: tuple[str, ...] = (),
) -> Callable[[Check], RankRule]:
    """Make a RankRule of a function that takes Ranks and yields Findings.

    Raises:
        UsageError: the name is not kebab-case.
    """
    return define_rule(RankRule, name, examples, code=code, severity=severity, explains=explains)


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
