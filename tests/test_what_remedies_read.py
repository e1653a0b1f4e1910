"""Remedies choose by the fields of a finding: its sentences may be worded anew at any time."""

import ast
import dataclasses
import pathlib

import pytest
from bench.faults import CASES

import cnnprobe
from cnnprobe import remedies
from cnnprobe.remedies import list_remedies
from cnnprobe.training import Request, observe_training

SENTENCES = {"message", "fix", "advice", "said"}


def test_no_remedy_reads_a_sentence_of_a_finding():
    kinds = pathlib.Path(remedies.__file__).parent
    read = [
        f"{path.name}:{node.lineno}"
        for path in kinds.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in SENTENCES
    ]
    assert [] == read


# A rule each whose findings are of several kinds, or speak of one of several calls.
OF_SEVERAL_KINDS = (
    "weights_of_classes_that_do_not_occur",
    "warm_up_that_returns_a_rate",
    "layer_that_is_made_in_the_forward",
    "way_through_numpy",
)


@pytest.mark.parametrize("name", OF_SEVERAL_KINDS)
def test_remedies_are_the_same_whatever_the_sentences_say(name):
    case = CASES[name].build(True)
    found = cnnprobe.diagnose(**case, trials=0).findings
    evidence, _ = observe_training(Request(**case))
    for finding in found:
        mute = dataclasses.replace(finding, message="", fix="")
        titles = [
            [remedy.title for remedy in list_remedies(each, evidence, case["model"])]
            for each in (finding, mute)
        ]
        assert titles[0] == titles[1]
