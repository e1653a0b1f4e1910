"""Reports: shown, saved, loaded."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cnnprobe.errors import ProbeError, UnknownNameError
from cnnprobe.records.schema import SCHEMA_VERSION
from cnnprobe.report import Report
from cnnprobe.saved import load
from tests.support import traces


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    severity: str


def refuse(constant):
    raise AssertionError(constant)


@pytest.mark.parametrize(
    "trace", [traces.tiny(), traces.failing(), traces.hostile()], ids=["tiny", "failing", "hostile"]
)
def test_a_saved_report_is_loaded_as_it_was(tmp_path, trace):
    Report(trace=trace).save(tmp_path / "report.json")
    assert Report(trace=trace) == load(tmp_path / "report.json")


def test_the_json_is_strict_names_its_schema_and_has_the_promised_keys():
    stats = {"count": 1, "mean": math.nan, "max": math.inf}
    trace = traces.tiny()
    trace = replace(
        trace, calls=(replace(trace.calls[0], outputs=(traces.tensor(2, stats=stats),)),)
    )
    data = json.loads(Report(trace=trace).to("json"), parse_constant=refuse)
    assert (SCHEMA_VERSION, "Report", [], None, None) == tuple(
        data[key] for key in ("schema_version", "type", "findings", "explanation", "graph")
    )
    assert {"count": 1, "mean": "NaN", "max": "Infinity"} == data["trace"]["calls"][0]["outputs"][
        0
    ]["stats"]


def test_output_and_error_stay_out_of_json_equality_and_repr():
    report = Report(trace=traces.tiny(), output="SECRET", error=ValueError("SECRET"))
    assert Report(trace=traces.tiny()) == report
    assert "SECRET" not in report.to("json") + repr(report) + str(report)


def test_a_report_is_ok_unless_the_model_raised_or_a_finding_is_an_error():
    trace = traces.tiny()
    severities = {
        severity: Report(trace=trace, findings=(Judgement(severity=severity),)).ok
        for severity in ("error", "warning", "info")
    }
    assert (True, False) == (Report(trace=trace).ok, Report(trace=traces.failing()).ok)
    assert {"error": False, "warning": True, "info": True} == severities


def test_repr_is_one_short_line():
    assert "<Report of Tiny: 5 calls, 5,354 parameters, ok>" == repr(Report(trace=traces.tiny()))
    assert "<Report of Tiny: 4 calls, 5,404 parameters, raised RuntimeError>" == repr(
        Report(trace=traces.failing())
    )


def test_str_is_the_text_and_depth_is_passed_on():
    report = Report(trace=traces.blocks(2))
    assert report.to("text").rstrip("\n") == str(report)
    assert "fc" in report.to("text", width=80) and "fc" not in report.to("text", width=80, depth=1)


@pytest.mark.parametrize(
    ("name", "begins"), [("r.md", "# Tiny"), ("r.txt", "Tiny\n"), ("r.HTML", "<!doctype html>")]
)
def test_the_suffix_names_the_format(tmp_path, name, begins):
    Report(trace=traces.tiny()).save(tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(begins)


def test_an_unknown_suffix_or_format_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"no format has the suffix '\.jsn'"):
        Report(trace=traces.tiny()).save(tmp_path / "r.jsn")
    with pytest.raises(UnknownNameError, match="no format named 'pdf'"):
        Report(trace=traces.tiny()).to("pdf")
    assert [] == list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path / "missing" / "r.json", tmp_path / "folder.json"):
        with pytest.raises(ProbeError) as caught:
            Report(trace=traces.tiny()).save(path)
        assert (str(path), True) == (
            caught.value.where,
            caught.value.what.startswith("the report cannot be written: "),
        )
    assert ["folder.json"] == os.listdir(tmp_path)


def test_a_failed_write_leaves_the_old_report_and_no_draft(tmp_path, monkeypatch):
    target = tmp_path / "r.json"
    Report(trace=traces.tiny()).save(target)
    before = target.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(ProbeError, match="No space left on device"):
        Report(trace=traces.failing()).save(target)
    assert (before, ["r.json"]) == (target.read_bytes(), os.listdir(tmp_path))


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    Report(trace=traces.tiny()).save(tmp_path / "link.json")
    assert (True, Report(trace=traces.tiny())) == (
        (tmp_path / "link.json").is_symlink(),
        load(tmp_path / "real.json"),
    )


def damaged(change):
    data = json.loads(Report(trace=traces.tiny()).to("json"))
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (Report(trace=traces.tiny()).to("json")[:500], "this is not a complete JSON document"),
        ("", "this is not a complete JSON document"),
        ("[" * 100_000, "this is not a complete JSON document"),
        ('{"a": NaN}', "this is not a complete JSON document"),
        ("[]", "this JSON is not a cnnprobe Report"),
        ('{"schema_version": "1", "type": "Report"}', "this JSON is not a cnnprobe Report"),
        ('{"schema_version": 1, "type": "Document"}', "this JSON is not a cnnprobe Report"),
        (
            damaged(lambda d: d.update(schema_version=SCHEMA_VERSION + 1)),
            f"it has schema version {SCHEMA_VERSION + 1}",
        ),
        (damaged(lambda d: d.pop("trace")), "the report is damaged: its trace is missing"),
        (
            damaged(lambda d: d.update(trace=None)),
            "the report is damaged: expected an object with the fields of Trace",
        ),
        (damaged(lambda d: d.update(moon=[1])), "the report is damaged: it contains 'moon'"),
        (
            damaged(lambda d: d["trace"]["calls"][2].update(index=None)),
            "the report is damaged: expected an integer, got None",
        ),
    ],
)
def test_a_file_that_is_no_report_is_one_clear_error(tmp_path, content, what):
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ProbeError) as caught:
        load(path)
    assert (True, True, True) == (
        caught.value.what.startswith(what),
        caught.value.where.startswith(str(path)),
        bool(caught.value.fix),
    )


def test_a_missing_or_binary_file_is_one_clear_error(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\x80\x02\xff")
    for path, what in (
        (tmp_path / "none.json", "No such file"),
        (tmp_path / "binary.json", "not JSON text"),
        (tmp_path, "no log of a rank"),
    ):
        with pytest.raises(ProbeError, match=what):
            load(path)


def test_a_notebook_gets_text_and_a_fragment_without_script():
    bundle = Report(trace=traces.failing())._repr_mimebundle_()
    assert {"text/plain", "text/html"} == set(bundle)
    assert (
        bundle["text/plain"] == str(Report(trace=traces.failing()))
        and "<script" not in bundle["text/html"]
    )


def test_a_notebook_output_of_a_large_model_stays_under_300_kb():
    trace = traces.blocks(3000)
    different = tuple(
        replace(m, config={"number": i}) for i, m in enumerate(trace.modules)
    )  # nothing folds
    shown = Report(trace=replace(trace, modules=different))._repr_mimebundle_()["text/html"]
    assert len(shown.encode()) < 300_000
    assert "more rows are not shown here" in shown


def test_rendering_a_saved_report_never_imports_torch(tmp_path):
    Report(trace=traces.tiny()).save(tmp_path / "r.json")
    program = (
        "import sys; from cnnprobe.saved import load; r = load(sys.argv[1]); "
        "[r.to(f) for f in ('text', 'markdown', 'html', 'fragment', 'json')]; "
        "r._repr_mimebundle_(); print([name for name in ('torch', 'numpy') if name in "
        "sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "r.json")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "[]" == done.stdout.strip()


# -- files of the first schema ---------------------------------------------------------------------

SAVED = Path(__file__).with_name("saved")
# Conv2d(1, 2, 3): 2 * 9 + 2; Linear(72, 3): 72 * 3 + 3, in the one that crashes Linear(70, 3)
PARAMETERS = {"crash.json": 20 + 213}


@pytest.mark.parametrize(
    "name", ["probe.json", "crash.json", "diagnose.json", "training.json", "run.jsonl"]
)
def test_a_report_that_an_earlier_version_saved_is_loaded_and_shown(name):
    report = load(SAVED / name)
    assert PARAMETERS.get(name, 20 + 219) == sum(
        math.prod(p.shape) for p in report.trace.parameters
    )
    assert "Conv2d" in report.to("text", width=100)


def test_a_crash_that_an_earlier_version_saved_keeps_its_explanation():
    explanation = load(SAVED / "crash.json").explanation
    assert ("linear-in-features", "3") == (explanation.diagnosis, explanation.module)
    assert explanation.repairs[0].works


def test_a_run_that_an_earlier_version_logged_keeps_its_steps():
    history = load(SAVED / "run.jsonl").history
    assert (3, (0, 1, 2)) == (history.total, history.steps)
