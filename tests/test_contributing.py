"""The contributors' page: its picture is the import graph, its files exist, its paths are the package's."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "cnnprobe"


def read_imports():
    """Room -> the rooms that its files import, also inside functions."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room.startswith("__"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module == "cnnprobe":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cnnprobe."):
                names = [node.module.split(".")[1]]
            rooms = {name for name in names if not name.startswith("_")}
            found.setdefault(room, set()).update(rooms - {room})
    return found


def drop_indirect(imports):
    """The edges that no longer way says already."""

    def reach(room):
        return set().union(*({each} | reach(each) for each in imports[room]))

    return {
        (room, target)
        for room, targets in imports.items()
        for target in targets
        if not any(target in reach(other) for other in targets - {target})
    }


def read_picture():
    block = re.search(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)[1]
    return set(re.findall(r"(\w+)(?:\[.*?\])? --> (\w+)", block))


def test_picture_of_the_house_is_the_import_graph():
    edges = drop_indirect(read_imports())
    assert sorted(edges) == sorted(read_picture())


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:cnnprobe|tests|docs)/(?![^`]*your)[\w/.-]+)`", PAGE)))
)
def test_path_on_the_page_exists(path):
    assert (ROOT / path).exists()


def test_every_room_is_told_of():
    table = "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))
    assert set(read_imports()) | {"errors"} == set(re.findall(r"`(\w+)`", table))
