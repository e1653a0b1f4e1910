"""Every rule of the data by its own examples: it finds its sick one, and nothing is found in its
healthy one.
"""

import pytest

import cnnprobe
from cnnprobe.crash.cause import all_causes
from cnnprobe.data import all_data_rules
from cnnprobe.data.expectation import Expectation
from cnnprobe.data.facts import Data, LoaderSettings, Split

RULES = {rule.name: rule for rule in all_data_rules()}


@pytest.mark.parametrize("name", RULES)
def test_rule_finds_its_sick_example(name):
    report = cnnprobe.inspect_data(**RULES[name].sick(), pictures=False)
    assert name in [finding.rule for finding in report.findings]
    assert RULES[name].severity in [f.severity for f in report.findings if name == f.rule]
    assert [] == [note for note in report.notes if "could not judge" in note]


@pytest.mark.parametrize("name", RULES)
def test_healthy_example_gives_no_warning(name):
    report = cnnprobe.inspect_data(**RULES[name].healthy(), pictures=False)
    assert [] == [(f.rule, f.message) for f in report.findings if f.severity != "info"]
    assert [] == [note for note in report.notes if "could not judge" in note]


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_explains_are_findings_that_there_are(name):
    known = {each.name for each in (*cnnprobe.rules(), *all_causes())}
    assert [] == [each for each in RULES[name].explains if each not in known]


@pytest.mark.parametrize(("workers", "said"), [(1, "with 1 worker, "), (2, "with 2 workers, ")])
def test_slow_loading_counts_its_workers(workers, said):
    loading = LoaderSettings(kind="DataLoader", workers=workers, seconds=1.0)
    data = Data(
        training=Split(name="training", loading=loading), expected=Expectation(seconds=0.01)
    )
    (found,) = RULES["slow-loading"].check(data)
    assert said in found.message
