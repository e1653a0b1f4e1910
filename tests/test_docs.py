"""The docs build without a warning: every page, with the reference that is made from docstrings and
rules.
"""

import os
import re
from pathlib import Path

import pytest

import cnnprobe
from cnnprobe import testing
from cnnprobe.crash.cause import all_causes
from cnnprobe.document.graph_formats import GRAPH_FORMATS
from tests.support.python import run_python

ROOT = Path(__file__).parent.parent


def test_docs_build_without_a_warning(tmp_path):
    options = ("--builder", "html", "--fail-on-warning", "--keep-going", "--quiet")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run_python(
        "-m", "sphinx", *options, "docs", tmp_path / "built", cwd=ROOT, env=environment
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


_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}


def _read_counts(text):
    """Every "130 causes", "five short tutorials" and so on, as (number, what is counted)."""
    found = re.findall(r"\b([0-9]+|[a-z]+) (?:short )?(rules|causes|tutorials)\b", text.lower())
    return {
        (int(number) if number.isdigit() else _WORDS[number], kind)
        for number, kind in found
        if number.isdigit() or number in _WORDS
    }


def test_counts_on_every_page_are_those_of_the_package():
    counts = {
        (len(cnnprobe.rules()), "rules"),
        (len(all_causes()), "causes"),
        (len(list((ROOT / "docs" / "tutorial").glob("*.md"))), "tutorials"),
    }
    pages = {ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")}
    # A line of the changelog says what was so when it was written.
    pages = {page for page in pages if page.parent.name != "changelog"}
    said = {page: _read_counts(page.read_text(encoding="utf-8")) for page in pages}
    assert counts == said[ROOT / "README.md"]
    assert {} == {page.name: found - counts for page, found in said.items() if found - counts}


def test_page_of_the_command_lists_the_formats_of_graphs():
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if "--format NAME" in line and "mermaid" in line]
    assert [GRAPH_FORMATS.keys()] == [
        GRAPH_FORMATS.keys() & re.findall(r"\w+", row) for row in rows
    ]


def test_readme_names_a_rule_of_each_hundred_and_none_that_is_gone():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rules = {entry.name: entry.code for entry in (*cnnprobe.rules(), *all_causes())}
    rows = re.findall(r"^\| (CP\d) \|[^|]*\| (.*) \|$", text, re.MULTILINE)
    assert {code[:3] for code in rules.values()} == {family for family, _ in rows}
    assert all(
        rules[name].startswith(family) for family, names in rows for name in names.split(", ")
    )
