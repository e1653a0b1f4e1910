"""Every rule by its own examples: it finds its sick one, and nothing is found in its healthy
one.
"""

import functools
import graphlib
import pathlib
import re

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.crash.cause import all_causes
from cnnprobe.diagnosis import Rule
from cnnprobe.diagnosis.discovery import read_sentence
from cnnprobe.remedies import ADVICE, UNWRITTEN, all_sources
from tests.support import fixable_programs, layer_programs, loss_programs, model_programs
from tests.support.written_as import WRITTEN_AS

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "reference" / "remedies.md"
ALL = {rule.name: rule for rule in cnnprobe.rules()}
RULES = {name: rule for name, rule in ALL.items() if isinstance(rule, Rule)}


@functools.cache
def diagnose_sick(name):
    """The report of a rule's sick example, once for all tests that ask."""
    return cnnprobe.diagnose(**RULES[name].sick())


@pytest.mark.parametrize("name", RULES)
def test_rule_finds_its_sick_example(name):
    assert name in [finding.rule for finding in diagnose_sick(name).findings]


OF_ONE = re.compile(
    r"(?<![\d.,])1 (?:[\w-]+ ){0,2}(?:layers|parameters|modules|gradients|steps|passes|calls|times"
    r"|samples|images|channels|others)\b"
)


@pytest.mark.parametrize("name", RULES)
def test_rule_counts_one_in_the_singular(name):
    for finding in diagnose_sick(name).findings:
        assert not OF_ONE.search(finding.message), finding.message


@pytest.mark.parametrize("frozen", [False, True])
def test_a_bias_counts_before_a_batchnorm_that_is_in_eval_mode_while_the_model_trains(frozen):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4).train(not frozen)
    x = torch.randn(8, 1, 8, 8)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    norm.train(not frozen)
    before = norm(conv(x)).detach()
    with torch.no_grad():
        conv.bias.add_(1.0)
    is_cancelled = torch.allclose(before, norm(conv(x)).detach(), atol=1e-5)
    report = cnnprobe.diagnose(model, x, torch.arange(8) % 3, loss_fn=nn.CrossEntropyLoss())
    assert is_cancelled is not frozen
    assert any(f.rule == "redundant-bias" for f in report.findings) is is_cancelled


def test_one_layer_has_a_redundant_bias_and_two_have():
    conv = functools.partial(nn.Conv2d, 3, 3, 3)
    (one,) = cnnprobe.diagnose(
        nn.Sequential(conv(), nn.BatchNorm2d(3)), torch.randn(2, 3, 8, 8)
    ).findings
    (two,) = cnnprobe.diagnose(
        nn.Sequential(conv(), nn.BatchNorm2d(3), nn.ReLU(), conv(), nn.BatchNorm2d(3)),
        torch.randn(2, 3, 8, 8),
    ).findings
    assert one.message.startswith("1 layer has a bias that the following BatchNorm cancels (")
    assert two.message.startswith("2 layers have a bias that the following BatchNorm cancels (")


@pytest.mark.parametrize("norms", [1, 2])
def test_a_fix_speaks_of_other_norms_where_there_are_some(norms):
    torch.manual_seed(0)
    frozen = [nn.BatchNorm2d(4).requires_grad_(False) for _ in range(norms)]
    model = nn.Sequential(nn.Conv2d(1, 4, 3), *frozen, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    report = cnnprobe.diagnose(
        model,
        torch.randn(8, 1, 8, 8),
        torch.arange(8) % 3,
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model[-1].parameters(), lr=0.1),
    )
    (found,) = [f for f in report.findings if f.rule == "frozen-bn-drift"]
    assert found.tried is not None
    assert ("and the others alike" in found.fix) is (norms > 1)


def write_row(name):
    """The row of a rule in the table of remedies, from what a diagnosis of its sick example
    says.
    """
    tried = [f.tried for f in diagnose_sick(name).findings if f.rule == name and f.tried]
    if name in ADVICE:
        return f"| `{name}` | advice | {ADVICE[name]} | no |"
    what = read_sentence(all_sources()[name].__doc__).rstrip(".")
    proven = [t for t in tried if t.verdict == "proven"]
    return (
        f"| `{name}` | {what} | {judge(proven[0]) if proven else 'not proven'} | "
        f"{say_written(name)} |"
    )


def say_written(name):
    """Whether the fix is written into the user's files, which a program proves; else why not."""
    if name in UNWRITTEN:
        return f"no: {UNWRITTEN[name]}"
    return f"as for `{WRITTEN_AS[name]}`" if name in WRITTEN_AS else "yes"


def judge(tried):
    if tried.said.startswith("after"):
        return "the loss falls further"
    follows = re.search("no longer found with the fix of (.*)", tried.said)
    return f"with the fix of `{follows[1]}`" if follows else "the rule, by a second observation"


@pytest.mark.parametrize("name", RULES)
def test_remedy_of_a_rule_is_in_the_table_and_proven_on_its_sick_example(name):
    row = write_row(name)
    assert row in PAGE.read_text(encoding="utf-8").splitlines()
    assert name in UNPROVEN or "not proven" not in row


# Whether its labels belong to the inputs of its sick example no rate can mend.
UNPROVEN = {"cannot-overfit"}


def test_each_remedy_is_written_in_a_program_or_has_a_reason():
    files = fixable_programs, layer_programs, loss_programs, model_programs
    written = set().union(*(file.PROGRAMS for file in files))
    assert set(all_sources()) == written | set(WRITTEN_AS) | set(UNWRITTEN)
    assert set() == set(UNWRITTEN) & (written | set(WRITTEN_AS))
    assert set(WRITTEN_AS.values()) <= written


def test_table_of_remedies_has_a_row_for_each_rule():
    rows = re.findall(r"^\| `([a-z0-9-]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(RULES) == sorted(rows)


def test_each_rule_has_a_remedy_or_is_advice():
    assert set(RULES) == set(all_sources()) | set(ADVICE)
    assert set() == set(all_sources()) & set(ADVICE)


@pytest.mark.parametrize("name", RULES)
def test_healthy_example_gives_no_warning(name):
    report = cnnprobe.diagnose(**RULES[name].healthy())
    assert [] == [(f.rule, f.message) for f in report.findings if f.severity != "info"]
    assert [] == [f.tried.title for f in report.findings if f.rule == name and f.tried]
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
