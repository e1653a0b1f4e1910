"""The package as a whole: what it exports, and what importing it does not import."""

import ast
import collections
import functools
import pathlib
import subprocess
import sys

import pytest
import torch

import cnnprobe
import cnnprobe.api
from cnnprobe.report import PARTS
from cnnprobe.saved import TYPES


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout.strip()


@pytest.mark.parametrize("name", cnnprobe.__all__)
def test_each_public_name_can_be_imported(name):
    assert getattr(cnnprobe, name) is not None


def test_all_is_what_dir_shows_and_what_has_a_home():
    assert sorted(cnnprobe.__all__) == dir(cnnprobe) == sorted([*cnnprobe._HOMES, "__version__"])


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cnnprobe.nothing


def test_importing_the_package_imports_no_torch():
    assert "False" == run("import sys, cnnprobe; print('torch' in sys.modules)")


def test_a_probe_that_is_printed_loads_no_more_than_it_needs():
    lines = run(
        "import sys, torch; before = set(sys.modules); import cnnprobe\n"
        "str(cnnprobe.probe(torch.nn.Linear(4, 2), torch.ones(3, 4)))\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})\n"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('cnnprobe.')})"
    ).splitlines()
    packages, rooms = map(set, map(str.split, lines))
    assert packages - sys.stdlib_module_names <= {"cnnprobe", "rich", "numpy"}
    needed = {"api", "document", "errors", "operations", "recorder", "records", "report", "stats"}
    assert needed == rooms


def test_what_explains_a_crash_is_loaded_when_something_crashes():
    loaded = run(
        "import sys, cnnprobe, torch\n"
        "from cnnprobe.testing import assert_equivalent, assert_no_graph_leak, assert_shapes\n"
        "cnnprobe.compare, cnnprobe.inspect_data, cnnprobe.measure, cnnprobe.record\n"
        "model = torch.nn.Linear(2, 1)\n"
        "assert_shapes(model, torch.ones(1, 2), {'': (1, 1)})\n"
        "with cnnprobe.monitor(model): model(torch.ones(1, 2)).sum().backward()\n"
        "print(*(name for name in ('cnnprobe.crash', 'triton') if name in sys.modules))"
    )
    assert "" == loaded


@pytest.mark.parametrize("verb", cnnprobe.api.__all__)
def test_each_verb_can_be_imported(verb):
    assert getattr(cnnprobe.api, verb) is not None


def test_an_unknown_verb_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cnnprobe.api.nothing


def test_reading_a_saved_report_imports_no_torch(tmp_path):
    path = tmp_path / "report.json"
    cnnprobe.probe(torch.nn.Linear(2, 3), torch.ones(1, 2)).save(path)
    code = (
        f"import sys, cnnprobe; report = cnnprobe.load({str(path)!r}); print(report.to('text', "
        "width=80)); print('torch' in sys.modules)"
    )
    lines = run(code).splitlines()
    assert "False" == lines[-1]
    assert any("Linear" in line for line in lines)


def test_each_part_of_a_saved_report_has_a_type_that_reads_it():
    assert PARTS == tuple(TYPES)


# -- the rooms of the package --------------------------------------------------------------------

PACKAGE = pathlib.Path(cnnprobe.__file__).parent
TORCHS = frozenset(dir(torch.nn.Module()) + dir(torch.Tensor) + ["_fields", "_replace"])


@functools.cache
def read_rooms():
    """The syntax of each file with the room that it is in."""
    return [
        (
            path.relative_to(PACKAGE).parts[0].removesuffix(".py"),
            path,
            ast.parse(path.read_text(encoding="utf-8")),
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def list_private_definitions(tree):
    """Private names that a file gives to functions, classes, fields and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_no_room_imports_a_private_name_of_another():
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.module}.{alias.name}"
        for room, path, tree in read_rooms()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cnnprobe")
        for alias in node.names
        if is_private(alias.name) and node.module.split(".")[1:2] != [room]
    ]
    assert [] == found


def test_no_room_reads_a_private_attribute_that_only_others_define():
    homes = collections.defaultdict(set)
    for room, _, tree in read_rooms():
        for name in filter(is_private, list_private_definitions(tree)):
            homes[name].add(room)
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}"
        for room, path, tree in read_rooms()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in homes and node.attr not in TORCHS
        if room not in homes[node.attr]
    ]
    assert [] == found
