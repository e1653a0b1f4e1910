"""`cnnprobe compare` and `cnnprobe refactor`: result, exit code, and what goes into a file."""

import ast
import json
from pathlib import Path

import pytest

from cnnprobe.cli import main

TWINS = Path(__file__).with_name("support") / "twins.py"
INPUT = ("--input", "2,3,32,32", "--width", "80")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main.main(list(map(str, arguments)), prog_name="cnnprobe")
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_compare_of_a_refactoring_with_its_weights_is_fine(capsys):
    code, out, _ = run(
        capsys, "compare", f"{TWINS}:CNNModel", f"{TWINS}:SimpleCNN", *INPUT, "--transfer"
    )
    assert 0 == code and "equivalent: the same operations" in out and "1,147,466 = 1,147,466" in out
    assert max(map(len, out.splitlines())) <= 80


def test_compare_exits_with_1_on_a_difference_and_names_it(capsys):
    code, out, _ = run(
        capsys, "compare", f"{TWINS}:CNNModelAsWritten", f"{TWINS}:SimpleCNN", *INPUT, "--transfer"
    )
    assert 1 == code and "first divergence (operations): flatten is missing" in out


@pytest.mark.parametrize(
    ("level", "expected"), [("parameters", 0), ("operations", 1), ("numbers", 1)]
)
def test_compare_judges_the_level_that_was_asked_for(capsys, level, expected):
    code, _, _ = run(
        capsys,
        "compare",
        f"{TWINS}:CNNModelAsWritten",
        f"{TWINS}:SimpleCNN",
        *INPUT,
        "--level",
        level,
    )
    assert expected == code


def test_compare_with_a_saved_report(capsys, tmp_path):
    run(capsys, "probe", f"{TWINS}:SimpleCNN", *INPUT, "-o", tmp_path / "before.json")
    code, out, _ = run(
        capsys,
        "compare",
        f"{TWINS}:SimpleCNN",
        tmp_path / "before.json",
        *INPUT,
        "--format",
        "json",
    )
    assert 0 == code and json.loads(out)["levels"]["numbers"] is True


def test_compare_of_two_saved_reports_needs_no_model(capsys, tmp_path):
    for name, classes in (("base", 10), ("head", 20)):
        arguments = ("--arg", f"classes={classes}")
        run(
            capsys,
            "probe",
            f"{TWINS}:SimpleCNN",
            *arguments,
            *INPUT,
            "-o",
            tmp_path / f"{name}.json",
        )
    code, out, _ = run(
        capsys, "compare", tmp_path / "head.json", tmp_path / "base.json", "--format", "markdown"
    )
    assert 1 == code
    assert (
        f"| parameters | 1,147,466 | {1_147_466 + 10 * 513:,} | +0.4% |" in out
    )  # 10 more rows of 512 weights and a bias
    assert "changed: 'fc2' (Linear)" in out
    assert 0 == run(capsys, "compare", tmp_path / "base.json", tmp_path / "base.json")[0]
    code, _, err = run(
        capsys, "compare", tmp_path / "head.json", tmp_path / "base.json", "--transfer"
    )
    assert 2 == code and "a saved report has no weights to transfer" in err


def test_refactor_writes_the_proven_source(capsys, tmp_path):
    code, out, err = run(
        capsys, "refactor", f"{TWINS}:SimpleCNN", *INPUT, "-o", tmp_path / "blocks.py"
    )
    assert (0, "") == (code, out) and "x 3, channels 3->32->64->128" in err
    names = [
        node.name
        for node in ast.parse((tmp_path / "blocks.py").read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    assert ["ConvBlock", "ModularSimpleCNN"] == names


def test_refactor_without_a_pattern_exits_with_1_and_writes_no_file(capsys, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), "
        "nn.Linear(4, 2))\n"
    )
    code, _, err = run(
        capsys, "refactor", f"{tmp_path}/net.py:net", "--input", "1,4", "-o", tmp_path / "blocks.py"
    )
    assert 1 == code and "nothing to fold" in err and not (tmp_path / "blocks.py").exists()
    code, out, err = run(capsys, "refactor", f"{tmp_path}/net.py:net", "--input", "1,4")
    assert 1 == code and "nothing to fold" in out
    assert "nothing to fold" not in err and "the model was not rewritten" in err
