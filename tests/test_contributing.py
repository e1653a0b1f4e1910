"""The contributors' page: its picture is the import graph, its files exist, its paths are the
package's.
"""

import ast
import graphlib
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


def read_module_imports(path):
    """The files of the package that a file imports, also inside functions and for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # A crash and what is asked of it know each other by type.
    typing_only = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and "TYPE_CHECKING" in ast.unparse(guard.test)
        for node in ast.walk(guard)
        if "crash" in path.parts
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            place = ROOT / (node.module or "").replace(".", "/")
            for alias in node.names:
                inside = place / f"{alias.name}.py", place / alias.name / "__init__.py"
                whole = place.with_suffix(".py"), place / "__init__.py"
                yield from [each for each in (*inside, *whole) if each.exists()][:1]


def test_no_file_imports_itself_by_way_of_others():
    files = list(PACKAGE.rglob("*.py"))
    imports = {path: {*read_module_imports(path)} - {path} for path in files}
    assert len(files) == len(list(graphlib.TopologicalSorter(imports).static_order()))


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
