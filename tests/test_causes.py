"""Every cause: its page, and its examples, which are explained and corrected as they say."""

import dataclasses
import re
import subprocess

import pytest
import torch
from examples import explain_example, explain_text

import cnnprobe.crash
from cnnprobe.crash.cause import all_causes
from cnnprobe.rulebook import all_rules

HEADINGS = ("Why it happens:", "What to do:", "Known exceptions:", "Source:")
CAUSES = [pytest.param(cause, id=cause.name) for cause in all_causes()]
EXAMPLES = [
    pytest.param(cause, example, id=f"{cause.name}-{i}")
    for cause in all_causes()
    for i, example in enumerate(cause.examples)
]
META = [
    param
    for param in EXAMPLES
    if param.values[1].on_meta and "def run(" not in param.values[1].program
]


@pytest.mark.parametrize("cause", CAUSES)
def test_page_of_a_cause_has_a_sentence_and_all_headings_in_their_order(cause):
    assert cause.sentence.endswith(".")
    lines = cause.page.splitlines()
    found = [heading for line in lines for heading in HEADINGS if line.startswith(heading)]
    assert list(HEADINGS) == found
    assert re.fullmatch(r"CP0[0-9A-Z]\d", cause.code)


@pytest.mark.parametrize("cause", CAUSES)
def test_cause_has_an_example(cause):
    assert cause.examples


def test_codes_and_names_of_causes_and_rules_are_all_different():
    entries = (*all_causes(), *all_rules())
    codes, names = {entry.code for entry in entries}, {entry.name for entry in entries}
    assert len(entries) == len(codes) == len(names)


def apply_patch(patch, text, folder):
    path = folder / "patched.py"
    path.write_text(text)
    renamed = re.sub(r"(?m)^(---|\+\+\+) .*$", r"\1 patched.py", patch)
    subprocess.run(["patch", "-s", str(path)], input=renamed, text=True, check=True)
    return path.read_text()


@pytest.mark.parametrize(("cause", "example"), EXAMPLES)
def test_example_of_a_cause_is_named_and_located(cause, example):
    explanation = explain_example(example.sick)
    assert (cause.name, cause.code, example.blames) == (
        explanation.diagnosis,
        explanation.code,
        explanation.module,
    ), explanation.message


@pytest.mark.parametrize(("cause", "example"), EXAMPLES)
def test_first_repair_of_an_example_is_tried_and_its_patch_mends_the_program(
    cause, example, tmp_path
):
    explanation = explain_example(example.sick)
    if not example.repair:
        assert not any(repair.works for repair in explanation.repairs)
        return
    first = explanation.repairs[0]
    assert example.repair in first.title
    is_tried = first.works and first.plausible and first.tried.startswith("tried: ")
    assert example.is_tried == is_tried
    if first.patch:
        mended = apply_patch(first.patch, example.sick, tmp_path)
        assert explain_text(mended, tmp_path) is None


@pytest.mark.parametrize(("cause", "example"), EXAMPLES)
def test_corrected_example_of_a_cause_gives_no_explanation(cause, example, tmp_path):
    assert explain_text(example.repaired, tmp_path) is None


@pytest.mark.parametrize(("cause", "example"), META)
def test_example_of_a_cause_is_named_on_the_meta_device_too(cause, example, tmp_path):
    with torch.device("meta"):
        explanation = explain_text(example.sick, tmp_path)
    assert (cause.name, example.blames) == (explanation.diagnosis, explanation.module)


@pytest.fixture
def reworded(monkeypatch):
    """Exceptions that say something else than torch does when they are explained."""
    explain_crash = cnnprobe.crash.explain_crash

    def explain_reworded(crash):
        crash.error.args = ("reworded", *crash.error.args[1:])
        failure = crash.trace.failure
        if failure is not None:
            reworded = dataclasses.replace(failure, message="reworded")
            crash.trace = dataclasses.replace(crash.trace, failure=reworded)
        return explain_crash(crash)

    monkeypatch.setattr(cnnprobe.crash, "explain_crash", explain_reworded)


@pytest.mark.parametrize(("cause", "example"), EXAMPLES)
def test_explanation_does_not_depend_on_the_wording_of_the_message(
    cause, example, tmp_path, reworded
):
    explanation, known = explain_text(example.sick, tmp_path), explain_example(example.sick)
    assert (known.diagnosis, known.module) == (explanation.diagnosis, explanation.module)
    titles = [repair.title for repair in explanation.repairs]
    assert strip_numbers(titles) == strip_numbers([repair.title for repair in known.repairs])


def strip_numbers(titles):
    """Without the number in the name of the program's file."""
    return [re.sub(r"program_\d+", "program", title) for title in titles]
