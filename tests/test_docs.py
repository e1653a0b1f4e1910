"""The docs build without a warning: every page, with the reference that is made from docstrings and rules."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cnnprobe
from cnnprobe import testing
from cnnprobe.crash.cause import all_causes

ROOT = Path(__file__).parent.parent


def test_docs_build_without_a_warning(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--builder",
        "html",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "docs",
        str(tmp_path / "built"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (0, "") == (done.returncode, done.stderr)
    rules = (tmp_path / "built" / "reference" / "rules.html").read_text(encoding="utf-8")
    assert "dead-relu" in rules and "softmax-before-ce" in rules
    causes = (tmp_path / "built" / "reference" / "causes.html").read_text(encoding="utf-8")
    assert all(cause.code in causes and cause.name in causes for cause in all_causes())
    saved = (tmp_path / "built" / "reference" / "saved-reports.html").read_text(encoding="utf-8")
    assert "ModuleCall" in saved and "own multiply-accumulates" in saved


@pytest.mark.parametrize(
    ("page", "names"), [("python", cnnprobe.__all__), ("testing", testing.__all__)]
)
def test_reference_lists_each_public_name_once(page, names):
    text = (ROOT / "docs" / "reference" / f"{page}.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto(?:function|class):: (\S+)$", text, re.MULTILINE)
    assert {*names} - {"__version__"} <= {name.rpartition(".")[2] for name in documented}
    assert len(documented) == len(set(documented))


def test_readme_says_how_many_causes_and_rules_there_are_and_names_none_that_is_gone():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    causes = {cause.name: cause.code for cause in all_causes()}
    rules = {rule.name: rule.code for rule in cnnprobe.rules()}
    assert f"[{len(causes)} causes](docs/reference/causes.md)" in text
    assert f"[{len(rules)} rules](docs/reference/rules.md)" in text
    rules |= causes
    rows = re.findall(r"^\| (CP\d) \|[^|]*\| (.*) \|$", text, re.MULTILINE)
    assert {code[:3] for code in rules.values()} == {family for family, _ in rows}
    assert all(
        rules[name].startswith(family) for family, names in rows for name in names.split(", ")
    )
