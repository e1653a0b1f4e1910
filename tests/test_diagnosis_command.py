"""The commands that diagnose, and that print the pages of rules and causes."""

import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

import cnnprobe
from cnnprobe.cli import main
from cnnprobe.crash.cause import all_causes

NET = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, soft=True):
        super().__init__(nn.Flatten(), nn.Linear(48, 4), *([nn.Softmax(1)] if soft else []))
"""


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_command_diagnoses_and_exits_with_one_where_something_is_found(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    spec, options = (
        f"{tmp_path / 'net.py'}:Net",
        ["--input", "8,3,4,4", "--loss", "cross_entropy", "--optimizer", "adam:lr=1e-3", "--train"],
    )
    sick = run("diagnose", spec, *options)
    assert 1 == sick.exit_code
    assert "softmax-before-ce" in sick.output and "CP401" in sick.output
    assert 0 == run("diagnose", spec, *options, "--arg", "soft=False").exit_code
    assert 0 == run("diagnose", spec, *options, "--fail-on", "dead-relu").exit_code
    assert 2 == run("diagnose", spec, *options, "--fail-on", "dead-rellu").exit_code


def test_command_says_that_it_made_up_the_targets(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    command = [
        "diagnose",
        f"{tmp_path / 'net.py'}:Net",
        "--input",
        "8,3,4,4",
        "--loss",
        "cross_entropy",
    ]
    assert "random targets of shape (8,)" in run(*command).stderr
    torch.save(torch.zeros(8, dtype=torch.int64), tmp_path / "y.pt")
    assert "random targets" not in run(*command, "--targets", tmp_path / "y.pt").stderr


def test_command_takes_an_output_without_a_batch(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\nNet = lambda: nn.Linear(3, 4)\n")
    result = run(
        "diagnose",
        f"{tmp_path / 'net.py'}:Net",
        "--input",
        "3",
        "--loss",
        "cross_entropy",
        "--optimizer",
        "sgd:lr=0.1",
    )
    assert (0, "random targets of shape ()" in result.stderr) == (result.exit_code, True), (
        result.output
    )


def test_command_reads_suppressions_of_pyproject(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.cnnprobe.ignore]\nsoftmax-before-ce = "as published"\n'
    )
    monkeypatch.chdir(tmp_path)
    result = run("diagnose", "net.py:Net", "--input", "8,3,4,4", "--loss", "cross_entropy")
    assert 0 == result.exit_code


@pytest.mark.parametrize("loss", ["cross_entropy", "CrossEntropyLoss", "nn.CrossEntropyLoss"])
def test_a_loss_is_named_by_its_function_or_its_class(tmp_path, monkeypatch, loss):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    result = run("diagnose", "net.py:Net", "--input", "8,3,4,4", "--loss", loss)
    assert "CP401" in result.stdout


def test_a_loss_that_is_misspelt_is_answered_with_its_neighbour(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    result = run("diagnose", "net.py:Net", "--loss", "CrosEntropyLoss")
    assert (2, True) == (result.exit_code, "did you mean" in result.output)


def test_an_optimizer_for_a_model_without_parameters_is_refused(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text("from torch import nn\nclass Net(nn.ReLU): pass\n")
    monkeypatch.chdir(tmp_path)
    options = ["--input", "2,3", "--loss", "mse_loss", "--optimizer", "sgd"]
    result = run("diagnose", "net.py:Net", *options)
    assert (2, True) == (result.exit_code, "has no parameters to train" in result.output)


def test_command_says_when_only_the_forward_pass_was_checked(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    assert (
        "only the forward pass was checked"
        in run("diagnose", "net.py:Net", "--input", "8,3,4,4").stderr
    )


def test_explain_prints_all_rules_of_a_family():
    page = run("explain", "batch-leak").output
    titles = [line for line in page.splitlines() if line.startswith("batch-")]
    assert ["batch-leak (CP701, error)", "batch-as-time (CP708, error)"] == titles


def test_explain_takes_name_and_code_and_suggests():
    assert run("explain", "dead-relu").output == run("explain", "CP101").output
    assert "What to do:" in run("explain", "dead-relu").output
    assert "did you mean 'dead-relu'" in run("explain", "dead-rely").output


def run_cli(*arguments):
    return CliRunner().invoke(main, [*arguments]).output


def test_page_of_a_rule_is_printed_without_torch():
    code = (
        "import sys; from cnnprobe.cli import main; main(['explain', 'dead-relu'], "
        "standalone_mode=False); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("dead-relu (CP101, warning)")


def test_causes_and_rules_are_listed_by_code():
    lines = run_cli("rules").splitlines()
    assert [entry.code for entry in (*all_causes(), *cnnprobe.rules())] == [
        line.split()[0] for line in lines
    ]


def test_page_of_a_cause_has_its_example_with_the_correction():
    page = run_cli("explain", "CP099")
    assert page.startswith("unknown (CP099, error)")
    assert "-         self.limit = 2\n" in page and "+         self.limit = 3\n" in page


def test_page_of_an_unknown_name_says_what_is_near():
    assert "did you mean 'missing-flatten'" in run_cli("explain", "missing-flaten")


def test_command_explains_a_crash_and_exits_with_three(tmp_path):
    (tmp_path / "net.py").write_text(NET.replace("nn.Flatten(), ", ""))
    result = run(
        "diagnose", f"{tmp_path / 'net.py'}:Net", "--input", "8,3,4,4", "--loss", "cross_entropy"
    )
    assert 3 == result.exit_code
    assert (
        "error: missing-flatten" in result.output
        and "Repairs" in result.output
        and "tried: " in result.output
    )


def test_command_folds_all_but_five_findings_and_tells_how_many(tmp_path):
    rules = "\n".join(
        (
            f'@rule(code="CP99{i}", name="mine-{i}", severity=Severity.WARNING)\ndef '
            f'r{i}(evidence):\n    yield Finding(message="m", fix="f", module="")\n'
        )
        for i in range(7)
    )
    (tmp_path / "mine.py").write_text(
        f"from cnnprobe.diagnosis import Finding, Severity, rule\n{rules}"
    )
    (tmp_path / "net.py").write_text(NET)
    output = run(
        "diagnose",
        f"{tmp_path / 'net.py'}:Net",
        "--input",
        "8,3,4,4",
        "--rules",
        tmp_path / "mine.py",
    ).output
    assert "7 findings" in output and "2 more" in output
    assert 5 == output.count("  fix:")
