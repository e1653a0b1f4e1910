"""`cnnprobe probe --fix`: the repair of a crash is written into the user's own file, and into no
other.
"""

import os

import pytest
from click.testing import CliRunner

from cnnprobe.cli import main

BROKEN = """from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8 * 8 * 8, 4)

    def forward(self, x):
        x = self.body(x)
        return self.head(x)
"""
COMMAND = ("--input", "2,3,8,8")


@pytest.fixture
def broken_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"broken_{tmp_path.name.replace('-', '_')}.py"
    path.write_text(BROKEN)
    os.utime(path, (1.0, 1.0))
    return path


def probe(path, *options):
    return CliRunner().invoke(main, ["probe", f"{path.name}:Net", *COMMAND, *options])


def test_repair_is_written_the_original_kept_and_the_model_run_again(broken_file):
    result = probe(broken_file, "--fix")
    assert 0 == result.exit_code
    assert "fixed missing-flatten in" in result.stderr
    assert "head" in result.stdout
    assert "(2, 4)" in result.stdout
    assert BROKEN == broken_file.with_name(broken_file.name + ".orig").read_text()
    assert "flatten" in broken_file.read_text()
    assert [broken_file.name, broken_file.name + ".orig"] == sorted(os.listdir())[:2]
    assert 0 == probe(broken_file).exit_code


def test_repair_that_is_written_is_the_diff_that_is_printed(broken_file):
    patch = probe(broken_file, "--diff").stdout
    assert BROKEN == broken_file.read_text()
    probe(broken_file, "--fix")
    added = [line[1:] for line in patch.splitlines() if line[:1] == "+" and line[:2] != "++"]
    assert added
    assert set(broken_file.read_text().splitlines()) - set(BROKEN.splitlines()) == set(added)


def test_crash_without_a_known_repair_is_shown_and_nothing_is_written(broken_file):
    text = BROKEN.replace("return self.head(x)", "raise ValueError(tuple(x.shape))")
    broken_file.write_text(text)
    os.utime(broken_file, (1.0, 1.0))
    result = probe(broken_file, "--fix")
    assert (3, text) == (result.exit_code, broken_file.read_text())
    assert "no repair is known as a change of your files" in result.stderr
    assert "ValueError: (2, 8, 8, 8)" in result.stdout


def test_two_crashes_that_one_repair_mends_are_written_together(broken_file):
    text = BROKEN.replace("self.head(x)", "self.tail(self.head(x))").replace(
        "        self.head", "        self.tail = nn.Linear(5, 2)\n        self.head"
    )
    broken_file.write_text(text)
    os.utime(broken_file, (1.0, 1.0))
    result = probe(broken_file, "--fix")
    assert 0 == result.exit_code
    assert "self.tail(self.head(x.flatten(1)))" in broken_file.read_text()
    assert "self.tail = nn.Linear(4, 2)" in broken_file.read_text()


def test_file_that_has_changed_since_it_was_imported_is_not_written(broken_file):
    os.utime(broken_file, (4e9, 4e9))
    result = probe(broken_file, "--fix")
    assert (3, BROKEN) == (result.exit_code, broken_file.read_text())
    assert "has changed since it was imported" in result.stderr
    assert [broken_file.name] == [name for name in os.listdir() if name.startswith("broken")]


def test_file_of_an_installed_package_is_not_written(broken_file, monkeypatch):
    folder = broken_file.parent / "site-packages"
    folder.mkdir()
    path = broken_file.rename(folder / broken_file.name)
    os.utime(path, (1.0, 1.0))
    monkeypatch.chdir(folder)
    result = probe(path, "--fix")
    assert (3, BROKEN) == (result.exit_code, path.read_text())


def test_nothing_is_written_where_the_forward_passes(broken_file):
    right = BROKEN.replace("self.head(x)", "self.head(x.flatten(1))")
    broken_file.write_text(right)
    os.utime(broken_file, (1.0, 1.0))
    result = probe(broken_file, "--fix")
    assert (0, right) == (result.exit_code, broken_file.read_text())
    assert "nothing to fix: the forward passes" in result.stderr
