"""The rules, one a file: the check, its page as the docstring, and a sick and a healthy example
that are its tests.

A new rule is a new file here; it is found by itself. A user's own is a file given to `load_rules`,
or an entry point of the group "cnnprobe.rules".
"""

import functools
import os
import sys
from collections.abc import Iterable

from cnnprobe.diagnosis import Rule
from cnnprobe.diagnosis.discovery import find_entries, load_entries, sort_by_code

__all__ = ["all_rules", "load_rules"]


@functools.cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule that is built in or installed as an entry point, by code.

    Raises:
        UsageError: two rules have one code or one name.

    >>> [rule.name for rule in all_rules() if rule.code == "CP101"]
    ['dead-relu']
    """
    return find_entries(sys.modules[__name__], "cnnprobe.rules", Rule)


def load_rules(paths: Iterable[str | os.PathLike[str]]) -> tuple[Rule, ...]:
    """All rules and those in the given Python files or folders of them. Importing a rule file runs
    it.
    """
    return sort_by_code((*all_rules(), *load_entries(paths, Rule)))
