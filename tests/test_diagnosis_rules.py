"""Which rules `diagnose` runs, what is suppressed with a reason, and in which order findings
come.
"""

import dataclasses
import importlib.metadata

import pytest
import torch
from bench.parts import Classifier, classifier, images, labels
from torch import nn

import cnnprobe
from cnnprobe import rulebook
from cnnprobe.diagnosis import Finding, Rule, Severity, at_least, in_order, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.document.layout.findings import build_finding_blocks, fold
from cnnprobe.errors import UsageError
from cnnprobe.rulebook import load_rules


def test_a_rule_that_raises_is_noted_and_hides_nothing():
    @rule(code="XX001", name="broken-rule")
    def broken(evidence):
        raise KeyError("oops")

    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.Softmax(1))
    report = cnnprobe.diagnose(
        model, images(), labels(), loss_fn=nn.CrossEntropyLoss(), rules=[broken]
    )
    assert ["softmax-before-ce"] == [f.rule for f in report.findings]
    assert any("broken-rule could not judge" in note for note in report.trace.notes)


def test_suppression_needs_a_reason_and_is_noted():
    given = classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.Softmax(1)))
    with pytest.raises(UsageError, match="without a reason"):
        cnnprobe.diagnose(**given, ignore={"softmax-before-ce": " "})
    report = cnnprobe.diagnose(**given, ignore={"softmax-before-ce:2": "as in the paper"})
    assert () == report.findings
    assert any("as in the paper" in note for note in report.trace.notes)


def test_family_suppresses_the_findings_of_all_its_rules():
    loop = find_rule("gradients-cleared").sick()
    (found,) = cnnprobe.diagnose(**loop).findings
    assert ("gradients-cleared", "unchanged-weights") == (found.rule, found.family)
    report = cnnprobe.diagnose(**loop, ignore={"unchanged-weights": "a loop without training"})
    assert () == report.findings


def test_minus_before_an_error_is_right_where_the_optimizer_maximises():
    both = find_rule("maximised-error").healthy()
    assert [] == [f.rule for f in cnnprobe.diagnose(**both).findings]


def find_rule(name):
    return next(each for each in rulebook.all_rules() if each.name == name)


def finding(name, severity=Severity.WARNING):
    return Finding(rule=name, message="", fix="", severity=severity)


def quiet(evidence: Evidence):
    return []


def test_root_cause_comes_before_what_follows_from_it():
    cause = Rule(
        code="B", name="cause", severity=Severity.WARNING, check=quiet, explains=("symptom",)
    )
    symptom = Rule(code="A", name="symptom", severity=Severity.ERROR, check=quiet)
    ordered = in_order([finding("symptom", Severity.ERROR), finding("cause")], [symptom, cause])
    assert [("cause", ()), ("symptom", ("cause",))] == [(f.rule, f.follows_from) for f in ordered]


def test_graver_findings_come_first_and_five_are_shown():
    found = in_order(
        [finding("a", Severity.INFO), finding("b", Severity.ERROR), *(finding(c) for c in "cdefg")],
        [],
    )
    assert "b" == found[0].rule
    assert "a" == found[-1].rule
    assert (5, 2) == tuple(map(len, fold(found)))


def test_the_first_of_several_findings_of_a_rule_stands_for_all():
    found = [finding(rule) for rule in "aabbbcb"]
    shown, rest = fold(found)
    assert "aabc" == "".join(each.rule for each in shown)
    assert "bbb" == "".join(each.rule for each in rest)
    (_, *notices, folded) = build_finding_blocks(found)
    assert [False, False, True, False] == ["3 more below" in each.where for each in notices]
    assert "3 more" == folded.title


def test_fail_on_takes_severities_and_rules():
    found = [finding("a", Severity.INFO), finding("b", Severity.ERROR)]
    assert ["b"] == [f.rule for f in at_least(found, "warning")]
    assert ["a"] == [f.rule for f in at_least(found, "a")]


def test_fail_on_takes_a_family():
    found = [finding("a"), dataclasses.replace(finding("missing-flatten"), family="shape")]
    assert ["missing-flatten"] == [f.rule for f in at_least(found, "shape")]


RULE_FILE = '''"""A rule of one's own."""

from cnnprobe.diagnosis import Finding, rule


@rule(code="MY001", name="too-small")
def too_small(evidence):
    """The model has fewer than a million parameters."""
    count = sum(p.numel for p in evidence.trace.parameters)
    if count < 1_000_000:
        yield Finding(module="", message=f"{count} parameters (less than 1,000,000)", fix="more")
'''


def test_rule_of_a_file_is_run(tmp_path):
    (tmp_path / "mine.py").write_text(RULE_FILE)
    assert "too-small" in [r.name for r in load_rules([tmp_path / "mine.py"])]
    report = cnnprobe.diagnose(Classifier(), images(), rules=[tmp_path / "mine.py"])
    assert ["too-small"] == [f.rule for f in report.findings]


def test_decorated_class_is_ignored_with_what_is_in_it_and_the_reason_is_noted():
    @cnnprobe.ignore("softmax-before-ce", "as published")
    class Head(nn.Sequential):
        pass

    def found(head, **more):
        torch.manual_seed(0)
        return cnnprobe.diagnose(
            nn.Sequential(nn.Flatten(), head),
            images(),
            labels(),
            loss_fn=nn.CrossEntropyLoss(),
            **more,
        )

    report = found(Head(nn.Linear(768, 4), nn.Softmax(1)))
    assert () == report.findings
    assert ("softmax-before-ce in '1.1' is ignored: as published",) == report.trace.notes[-1:]
    assert ["softmax-before-ce"] == [
        f.rule for f in found(nn.Sequential(nn.Linear(768, 4), nn.Softmax(1))).findings
    ]


def test_decorator_without_a_reason_is_refused():
    with pytest.raises(UsageError, match="without a reason"):
        cnnprobe.ignore("dead-relu", " ")


def test_rule_of_an_entry_point_is_run(monkeypatch):
    class Point:
        def load(self):
            return rule(code="CP996", name="always", severity=Severity.WARNING)(
                lambda evidence: [Finding(message="m", fix="f", module="")]
            )

    real = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda **of: [Point()] if of == {"group": "cnnprobe.rules"} else real(**of),
    )
    rulebook.all_rules.cache_clear()
    try:
        assert ["always"] == [
            f.rule
            for f in cnnprobe.diagnose(Classifier(), images()).findings
            if f.severity != "info"
        ]
    finally:
        rulebook.all_rules.cache_clear()


@pytest.mark.parametrize(("weigh", "is_found"), [(torch.exp, True), (torch.tanh, False)])
def test_task_weight_is_the_exponential_of_a_parameter_and_no_other_function(weigh, is_found):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.s = nn.Linear(4, 3), nn.Parameter(torch.full((1,), -1.0))

        def forward(self, x):
            return self.body(x), self.s

    def loss_fn(output, targets):
        scores, s = output
        return (weigh(-s) * nn.functional.cross_entropy(scores, targets)).sum()

    report = cnnprobe.diagnose(
        Weighted(), torch.randn(8, 4), torch.arange(8) % 3, loss_fn=loss_fn, trials=0
    )
    assert is_found == ("unbounded-task-weight" in {f.rule for f in report.findings})
