"""Architecture snapshots: a text file a test, compared, written whole, and reported when no test
uses it any more.
"""

import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = "__cnnprobe__"
_LONGEST = 120  # characters of a file's name, of the 255 that file systems allow


class Snapshots:
    """The snapshots of a run: which were used, which were written, and which tests there are."""

    def __init__(self, config: pytest.Config) -> None:
        self.folder = str(config.getini("cnnprobe_snapshot_dir"))
        self.updates = bool(config.getoption("--cnnprobe-update"))
        self.used: set[str] = set()
        self.written: list[str] = []
        self.collected: dict[
            str, set[str]
        ] = {}  # folder of a test file's snapshots -> names of the tests in it

    def path_of(self, item: pytest.Item, name: str) -> Path:
        """Where the snapshot of a test lies: FOLDER/test_file/test_name[.name].txt."""
        return self._place(item) / f"{make_file_name(item)}{f'.{_clean(name)}' if name else ''}.txt"

    def _place(self, item: pytest.Item) -> Path:
        return item.path.parent / self.folder / item.path.stem

    def check(self, item: pytest.Item, actual: str, name: str) -> None:
        """Fail unless `actual` is what the snapshot says; with --cnnprobe-update, write it."""
        __tracebackhide__ = True
        path = self.path_of(item, name)
        self.used.add(str(path))
        expected = path.read_text(encoding="utf-8") if path.exists() else None
        if expected == actual:
            return
        if self.updates:
            write_whole(path, actual)
            self.written.append(str(path))
            return
        where = format_path(path, item.config)
        if expected is None:
            raise AssertionError(
                "there is no snapshot of this architecture yet\n"
                f"  where: {where}\n"
                "  fix:   run pytest --cnnprobe-update, read the file, and commit it"
            )
        raise AssertionError(describe_difference(expected, actual, where))

    def remember(self, items: list[pytest.Item]) -> None:
        """Note which tests there are beside each folder of snapshots."""
        folders: dict[Path, bool] = {}
        for item in items:
            root = item.path.parent
            if folders.setdefault(root, (root / self.folder).is_dir()):
                self.collected.setdefault(str(self._place(item)), set()).add(make_file_name(item))

    def unused(self) -> list[str]:
        """Snapshots beside collected tests that belong to none of them, nor to a test file that was
        not collected.
        """
        return sorted(path for path in self._list_files() if path not in self.used)

    def _list_files(self) -> Iterator[str]:
        for folder, names in self.collected.items():
            for path in Path(folder).glob("*.txt"):
                if not any(path.stem == name or path.stem.startswith(f"{name}.") for name in names):
                    yield str(path)
        for root in {Path(folder).parent for folder in self.collected}:
            for folder_of_file in root.iterdir():
                if (
                    folder_of_file.is_dir()
                    and not (root.parent / f"{folder_of_file.name}.py").exists()
                ):
                    yield from map(str, folder_of_file.glob("*.txt"))


def make_file_name(item: pytest.Item) -> str:
    """The test as a file name: "TestNet.test_width-2" for TestNet::test_width[2]; what a file name
    cannot hold becomes a checksum.
    """
    name, bracket, parameters = item.nodeid.partition("::")[2].replace("::", ".").partition("[")
    parameters = parameters.removesuffix("]")
    clean = _clean(name) + (f"-{_clean(parameters)}" if bracket else "")
    if clean == name + (f"-{parameters}" if bracket else "") and len(clean) <= _LONGEST:
        return clean
    return f"{clean[:_LONGEST]}-{zlib.crc32(item.nodeid.encode()):08x}"


def _clean(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "_", name)


def format_path(path: Path, config: pytest.Config) -> str:
    """The path as pytest shows paths: from its root, where it is below."""
    return (
        str(path.relative_to(config.rootpath))
        if path.is_relative_to(config.rootpath)
        else str(path)
    )


def describe_difference(expected: str, actual: str, where: str) -> str:
    """The message of a snapshot that differs."""
    import difflib

    lines = [
        line
        for line in difflib.unified_diff(
            expected.splitlines(), actual.splitlines(), n=1, lineterm=""
        )
        if not line.startswith(("---", "+++", "@@"))
    ]
    changed = sum(line.startswith(("+", "-")) for line in lines)
    return "\n".join(
        (
            (
                f"the architecture differs from its snapshot in {changed} "
                f"line{'s' if changed > 1 else ''} (- snapshot, + now)"
            ),
            *(f"  {line}" for line in lines),
            f"  where: {where}",
            "  fix:   correct the model, or accept the change with pytest --cnnprobe-update",
        )
    )


def write_whole(path: Path, text: str) -> None:
    """Write a file so that another process sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
