"""The command that tries fixes: the diff, and what it writes."""

import os

import pytest
from click.testing import CliRunner

from cnnprobe.cli import main
from cnnprobe.cli.fixing import Fix, write_fixes

SICK = """from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 8)
        self.act = nn.ReLU()
        self.head = nn.Linear(8, 3)
        self.out = nn.Softmax(dim=1)

    def forward(self, x):
        return self.out(self.head(self.act(self.body(x))))
"""
TRAINING = ("--loss", "cross_entropy", "--optimizer", "sgd:lr=0.1")


@pytest.fixture
def sick_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"sick_{tmp_path.name.replace('-', '_')}.py"
    path.write_text(SICK)
    os.utime(path, (1.0, 1.0))
    return path


def test_command_prints_the_proven_fixes_as_a_diff_and_writes_nothing(sick_file):
    result = CliRunner().invoke(main, ["diagnose", f"{sick_file.name}:Net", *TRAINING, "--diff"])
    assert (
        "-        self.out = nn.Softmax(dim=1)\n+        self.out = nn.Identity()" in result.stdout
    )
    assert SICK == sick_file.read_text()


def test_command_fixes_the_file_keeps_the_original_and_says_what_is_left(sick_file):
    result = CliRunner().invoke(main, ["diagnose", f"{sick_file.name}:Net", *TRAINING, "--fix"])
    assert (0, True) == (result.exit_code, "nothing was found" in result.stdout)
    assert SICK.replace("nn.Softmax(dim=1)", "nn.Identity()") == sick_file.read_text()
    assert SICK == sick_file.with_name(sick_file.name + ".orig").read_text()


def test_command_says_which_fix_has_no_known_line(sick_file):
    sick_file.write_text(SICK.replace("nn.Softmax(dim=1)", "nn.Identity()"))
    training = ("--loss", "cross_entropy", "--optimizer", "sgd:lr=1e-9")
    result = CliRunner().invoke(main, ["diagnose", f"{sick_file.name}:Net", *training, "--diff"])
    assert "its line in your files is not known" in result.stderr
    assert "" == result.stdout.strip()


TWICE_SICK = SICK.replace(
    "        self.out", "        self.drop = nn.Dropout(0.97)\n        self.out"
).replace("self.act(self.body(x))", "self.drop(self.act(self.body(x)))")


def test_two_fixes_on_neighbouring_lines_are_one_diff_and_written_together(sick_file):
    sick_file.write_text(TWICE_SICK)
    os.utime(sick_file, (1.0, 1.0))
    command = ["diagnose", f"{sick_file.name}:Net", *TRAINING]
    diff = CliRunner().invoke(main, [*command, "--diff"]).stdout
    assert (1, 1) == (diff.count("--- a/"), diff.count("@@ -"))
    result = CliRunner().invoke(main, [*command, "--fix"])
    assert (0, True) == (result.exit_code, "nothing was found" in result.stdout)
    text = sick_file.read_text()
    assert "nn.Dropout(0.03)" in text
    assert "self.out = nn.Identity()" in text


def find_patched(path):
    patch = (
        f"--- a/{path.name}\n+++ b/{path.name}\n@@ -10,1 +10,1 @@\n"
        "-        self.out = nn.Softmax(dim=1)\n+        self.out = nn.Identity()\n"
    )
    return Fix("softmax-before-ce", "no softmax", patch)


def test_file_that_has_changed_since_it_was_imported_is_not_written(sick_file, capsys):
    assert [] == write_fixes([find_patched(sick_file)], imported=0.5)
    assert SICK == sick_file.read_text()
    assert "has changed since it was imported" in capsys.readouterr().err


def test_file_of_an_installed_package_is_not_written(sick_file, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = sick_file.rename(folder / sick_file.name)
    assert [] == write_fixes([find_patched(path)], imported=2.0)
    assert "is a file of an installed package" in capsys.readouterr().err


def test_fix_whose_lines_are_gone_is_not_written(sick_file, capsys):
    sick_file.write_text("x = 1\n")
    os.utime(sick_file, (1.0, 1.0))
    assert [] == write_fixes([find_patched(sick_file)], imported=2.0)
    assert "the lines are not as they were" in capsys.readouterr().err
