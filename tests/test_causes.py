"""Every cause: its page, and its examples, which are explained and corrected as they say."""

import contextlib
import dataclasses
import importlib.metadata
import re
import subprocess

import pytest
import torch
import torch.nn.functional as F

import cnnprobe
import cnnprobe.crash
from cnnprobe.crash.cause import all_causes
from cnnprobe.rulebook import all_rules
from tests.support.examples import explain_example, explain_text

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


def test_cause_has_an_example_unless_it_needs_a_gpu():
    lacking = {cause.name for cause in all_causes() if not cause.examples}
    assert {"device-assert"} == lacking  # tests/test_cuda.py has its programs


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


def looks_up_floats_on_meta():
    """Whether an embedding takes float indices on the meta device, as older torch does."""
    with torch.device("meta"), contextlib.suppress(RuntimeError):
        F.embedding(torch.ones(2), torch.ones(3, 4))
        return True
    return False


@pytest.mark.parametrize(("cause", "example"), META)
def test_example_of_a_cause_is_named_on_the_meta_device_too(cause, example, tmp_path):
    if cause.name == "float-indices" and looks_up_floats_on_meta():
        pytest.skip(f"torch {torch.__version__} takes float indices on the meta device")
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


# The names under which diagnoses were known before each cause had its own.
KNOWN = (
    "shape-mismatch not-a-tensor call-signature channel-mismatch broken-hook unknown target-dtype"
    " missing-attribute inplace-autograd empty-parameters dtype-mismatch batch-merge-view"
    " target-shape squeeze-batch nhwc-input missing-batch input-dtype device-mismatch"
    " bn-features-mismatch residual-mismatch missing-forward linear-in-features label-range"
    " index-range cat-mismatch broken-backward backward-twice state-mismatch spatial-collapse"
    " scaler-order scaled-half-weights output-range noncontiguous-view non-scalar-loss"
    " missing-flatten graph-to-numpy detached-graph bn-single-value bce-range"
)


def test_every_diagnosis_that_was_public_is_a_cause_or_a_family():
    names = {cause.name for cause in all_causes()} | {cause.family for cause in all_causes()}
    assert set(KNOWN.split()) <= names


MINE = """
from cnnprobe.crash.cause import cause
from cnnprobe.crash.suspect import STRONG, Suspect


@cause(code="CP0Z1", name="always-the-root", prior=9999)
def always_the_root(crash):
    \"\"\"Whatever raises, it is the root.\"\"\"
    yield Suspect(module="", message="it is the root", weight=STRONG + 9)
"""


def test_cause_in_a_file_of_the_users_own_is_asked(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(9, 2))
    report = cnnprobe.diagnose(model, torch.randn(3, 4), rules=[tmp_path / "mine.py"])
    assert ("always-the-root", "CP0Z1") == (report.findings[0].rule, report.findings[0].code)


def test_cause_of_an_entry_point_is_asked(monkeypatch):
    class Point:
        def load(self):
            namespace = {}
            exec(MINE, namespace)
            return namespace["always_the_root"]

    real = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda **of: [Point()] if of == {"group": "cnnprobe.causes"} else real(**of),
    )
    all_causes.cache_clear()
    try:
        report = cnnprobe.probe(torch.nn.Linear(4, 2), torch.randn(3, 5))
        assert "always-the-root" == report.explanation.diagnosis
    finally:
        all_causes.cache_clear()


def test_crash_is_suppressed_as_a_finding_is():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(9, 2))
    report = cnnprobe.diagnose(model, torch.randn(3, 4), ignore={"CP002": "known"})
    assert not any(finding.is_crash for finding in report.findings)
    assert any("is ignored: known" in note for note in report.trace.notes)
