"""Every rule by its own examples: it finds its sick one, and nothing is found in its healthy one."""

import graphlib
import re

import pytest

import cnnprobe
from cnnprobe.crash.cause import all_causes
from cnnprobe.diagnosis import Rule

ALL = {rule.name: rule for rule in cnnprobe.rules()}
RULES = {name: rule for name, rule in ALL.items() if isinstance(rule, Rule)}


@pytest.mark.parametrize("name", RULES)
def test_rule_finds_its_sick_example(name):
    report = cnnprobe.diagnose(**RULES[name].sick())
    assert name in [finding.rule for finding in report.findings]


@pytest.mark.parametrize("name", RULES)
def test_healthy_example_gives_no_warning(name):
    report = cnnprobe.diagnose(**RULES[name].healthy())
    assert [] == [(f.rule, f.message) for f in report.findings if f.severity != "info"]
    assert [] == [note for note in report.trace.notes if "could not judge" in note]


@pytest.mark.parametrize("name", ALL)
def test_page_says_why_what_and_from_where(name):
    rule = ALL[name]
    headings = re.findall(
        r"^(Why it matters|What to do|Known exceptions|Source):", rule.page, flags=re.MULTILINE
    )
    assert ["Why it matters", "What to do", "Known exceptions", "Source"] == headings
    assert rule.sentence.endswith(".")


def test_what_a_rule_explains_is_the_name_of_a_rule_or_a_cause():
    known = {*ALL, *(cause.name for cause in all_causes())}
    assert [] == [
        (rule.name, other) for rule in ALL.values() for other in rule.explains if other not in known
    ]


def test_family_of_a_rule_is_the_name_of_the_rule_that_was_split():
    families = {rule.family for rule in RULES.values() if rule.family}
    assert {
        "softmax-dim",
        "unchanged-weights",
        "batch-leak",
        "loss-sign",
        "nan-forward",
    } == families
    assert families <= {name for name, rule in RULES.items() if not rule.family}


def test_no_rule_explains_itself_by_way_of_others():
    causes = {name: {rule.name for rule in ALL.values() if name in rule.explains} for name in ALL}
    assert len(ALL) == len(list(graphlib.TopologicalSorter(causes).static_order()))
