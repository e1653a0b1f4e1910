"""`cnnprobe probe --fix`: the repair of a crash is written into the user's own file, and into no
other.
"""

import ast
import importlib
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner

from cnnprobe.cli import main
from cnnprobe.crash.edits import files
from cnnprobe.crash.edits.made import find_made
from cnnprobe.crash.facts import trees

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
    yield path
    for name, module in list(sys.modules.items()):  # else the next test's model is made twice
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


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


WITHOUT_A_CLASS = """from torch import nn

net = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.ReLU(),
    nn.Linear(8 * 8 * 8, 4),
)


def make_net(width=16):
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(width), nn.CELU())
    return body


def make_classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Softmax(dim=1))
"""


@pytest.fixture
def file_without_a_class(broken_file):
    broken_file.write_text(WITHOUT_A_CLASS)
    os.utime(broken_file, (1.0, 1.0))
    return broken_file


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("net", "    nn.Linear(8 * 8", "    nn.Flatten(),\n    nn.Linear(8 * 8"),
        ("make_net", "nn.BatchNorm2d(width)", "nn.BatchNorm2d(8)"),
    ],
)
def test_repair_is_written_where_the_model_is_made_without_a_class(
    name, before, after, file_without_a_class
):
    path = file_without_a_class
    command = ["probe", f"{path.name}:{name}", *COMMAND, "--fix"]
    result = CliRunner().invoke(main, command)
    assert 0 == result.exit_code, result.output
    assert WITHOUT_A_CLASS.replace(before, after, 1) == path.read_text()


def test_fix_of_diagnose_is_written_where_a_function_returns_the_model(file_without_a_class):
    path = file_without_a_class
    training = ("--loss", "cross_entropy", "--optimizer", "sgd:lr=0.1", "--fix")
    command = ["diagnose", f"{path.name}:make_classifier", *COMMAND, *training]
    result = CliRunner().invoke(main, command)
    assert "fixed softmax-before-ce in" in result.stderr
    assert WITHOUT_A_CLASS.replace("nn.Softmax(dim=1)", "nn.Identity()") == path.read_text()


def test_model_that_is_made_twice_is_not_written(file_without_a_class):
    path = file_without_a_class
    twice = WITHOUT_A_CLASS + WITHOUT_A_CLASS.partition("\n\n\n")[0].replace("net =", "other =")
    path.write_text(twice)
    os.utime(path, (1.0, 1.0))
    result = CliRunner().invoke(main, ["probe", f"{path.name}:net", *COMMAND, "--fix"])
    assert (3, twice) == (result.exit_code, path.read_text())


@pytest.mark.parametrize("is_remembered", [True, False])
def test_layer_that_is_missing_gets_a_line_of_its_own_in_a_sequential(
    file_without_a_class, monkeypatch, is_remembered
):
    if not is_remembered:  # as in a project of more files than are kept
        monkeypatch.setattr(files, "parse_text", files.parse_text.__wrapped__)
        monkeypatch.setattr(trees, "parse_text", files.parse_text)
    path = file_without_a_class
    linear = WITHOUT_A_CLASS.partition("net =")[0] + (
        "net = nn.Sequential(\n    nn.Linear(6, 8),\n    nn.Linear(8, 4),\n)\n"
    )
    path.write_text(linear)
    os.utime(path, (1.0, 1.0))
    training = ("--input", "2,6", "--loss", "cross_entropy", "--fix")
    result = CliRunner().invoke(main, ["diagnose", f"{path.name}:net", *training])
    assert "fixed missing-nonlinearity in" in result.stderr
    assert linear.replace("8),\n", "8),\n    nn.ReLU(),\n") == path.read_text()


def test_fix_is_not_written_into_a_sequential_of_names_that_is_another(file_without_a_class):
    path = file_without_a_class
    text = WITHOUT_A_CLASS + (
        "\n\ndef join(body):\n    return nn.Sequential(body, nn.Linear(512, 4))\n"
        "\n\ndef make_listed():\n    layers = [nn.Conv2d(3, 8, 3, padding=1)]\n"
        "    return nn.Sequential(*layers, nn.Linear(512, 4))\n"
    )
    path.write_text(text)
    os.utime(path, (1.0, 1.0))
    command = ["probe", f"{path.name}:make_listed", *COMMAND, "--fix"]
    assert (3, text) == (CliRunner().invoke(main, command).exit_code, path.read_text())


def import_file(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    return importlib.import_module(path.stem)


def test_files_of_a_project_are_parsed_once_for_all_fixes(file_without_a_class, monkeypatch):
    model = import_file(file_without_a_class, monkeypatch).make_classifier()
    for number in range(40):
        part = file_without_a_class.with_name(f"part{number}_{file_without_a_class.name}")
        part.write_text(f"LAYERS = {number}  # of a Sequential\n")
        import_file(part, monkeypatch)
    _, call = find_made(model)
    with monkeypatch.context() as patched:
        parse = mock.Mock(wraps=ast.parse)
        patched.setattr(ast, "parse", parse)
        again = find_made(model)
    assert (call, 0) == (again[1], parse.call_count)
    file_without_a_class.write_text("# one line more\n" + WITHOUT_A_CLASS)
    file, moved = find_made(model)
    assert call.lineno + 1 == moved.lineno
    assert file.text.splitlines()[call.lineno].startswith("    return nn.Sequential(nn.Flatten")


def test_file_that_is_no_utf8_does_not_hide_where_a_model_is_made(
    file_without_a_class, monkeypatch
):
    model = import_file(file_without_a_class, monkeypatch).make_classifier()
    other = file_without_a_class.with_name(f"other_{file_without_a_class.name}")
    other.write_bytes("# -*- coding: latin-1 -*-\nsize = 'größe'\n".encode("latin-1"))
    import_file(other, monkeypatch)
    file, call = find_made(model)
    assert file_without_a_class == Path(file.path)
    assert "Sequential" in file.source(call)
