"""Runs every code block of README, CONTRIBUTING and docs: a document is one program, in an empty folder of its own.

Python blocks are executed (with their doctests). In a console block each `$ command` is run by bash, and must print what the block shows
below it; a line of three dots stands for any lines. `$ echo $?` shows an exit code.
The programs of a console block run in forks of a process that has imported torch: `support.python` says how.
"""

import doctest
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from tests.support.python import make_stand_ins, start_server

ROOT = pathlib.Path(__file__).parent
LASTING = (
    str(ROOT),
    *{sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")},
)
SECONDS = 300  # for one block; training for an epoch is the longest


def run_console(example: Example) -> str | None:
    """The difference between what a block shows and what its commands print, or None."""
    steps = split_commands(example.parsed)
    script = "".join(
        f"{command}\n__status=$?; printf '\\0'; (exit $__status)\n" for command, _ in steps
    )
    paths = [make_stand_ins(), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(paths),
        "FORK_SERVER": start_server(),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "80",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=environment,
    )
    outputs = done.stdout.split("\0")
    for (command, expected), actual in zip(steps, outputs, strict=False):
        if expected.strip() and not doctest.OutputChecker().check_output(
            normal(expected), normal(actual), doctest.ELLIPSIS
        ):
            return f"$ {command}\nexpected:\n{expected}\nprinted:\n{actual}\nand on stderr:\n{done.stderr}"
    if len(outputs) <= len(steps) or (done.returncode != 0 and not steps[-1][1].strip()):
        return f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return None


def split_commands(text: str) -> list[tuple[str, str]]:
    """Each command of a console block with the output that it should have."""
    steps: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        elif steps and steps[-1][0].endswith("\\"):
            steps[-1] = (f"{steps[-1][0]}\n{line}", "")
        elif steps:
            steps[-1] = (steps[-1][0], f"{steps[-1][1]}{line}\n")
    return steps


def run_shown(example: Example) -> str | None:
    """Whether what the docs show in place of the block has a form that they can show."""
    shown = eval(example.parsed, example.namespace)  # noqa: S307 - our own document
    bundle = shown._repr_mimebundle_()
    return (
        None
        if {"text/html", "image/svg+xml"} & set(bundle)
        else f"{example.parsed} has neither HTML nor SVG to show, but {sorted(bundle)}"
    )


class ShownParser:
    """Blocks that read ```{shown} expression: the docs show there what a notebook would show of it."""

    _block = re.compile(r"^```\{shown\} (?P<expression>.+)\n```$", re.MULTILINE)

    def __call__(self, document: Document) -> Iterator[Region]:
        """One region a block."""
        for found in self._block.finditer(document.text):
            yield Region(found.start(), found.end(), found["expression"], run_shown)


def normal(text: str) -> str:
    """Without the blanks at the ends of lines and around the whole."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


_KEPT: set[str] = set()  # names of modules that were looked at before: there are thousands


def forget_modules() -> None:
    """Modules from folders that a test made for itself are no longer imported: the next test may have another `net.py`."""
    for name in sys.modules.keys() - _KEPT:
        file = getattr(sys.modules[name], "__file__", None)
        is_file = isinstance(file, str) and os.path.isabs(file)  # noqa: PTH117 - a Path takes long
        if is_file and not file.startswith(LASTING):
            del sys.modules[name]
        else:
            _KEPT.add(name)


@pytest.fixture(autouse=True)
def _leave_imports_as_they_were() -> Iterator[None]:
    """What a test puts on the path, or imports from its own folder, is gone after it."""
    before = list(sys.path)
    yield
    sys.path[:] = before
    forget_modules()


def enter_folder(namespace: dict[str, Any]) -> None:
    """Each document starts in an empty folder."""
    namespace["_folder"] = tempfile.TemporaryDirectory()
    namespace["_before"] = pathlib.Path.cwd()
    namespace["_path"] = list(sys.path)
    os.chdir(namespace["_folder"].name)


def leave_folder(namespace: dict[str, Any]) -> None:
    """Back to where the tests run."""
    os.chdir(namespace["_before"])
    namespace["_folder"].cleanup()
    sys.path[:] = namespace["_path"]
    forget_modules()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The blocks of a document stay together and in their order, whatever has shuffled the tests: each document has its folder."""
    documents: dict[pathlib.Path, list[SybilItem]] = {}
    for item in items:
        if isinstance(item, SybilItem):
            documents.setdefault(item.path, []).append(item)
    items[:] = [item for item in items if not isinstance(item, SybilItem)]
    for blocks in documents.values():
        items.extend(sorted(blocks, key=lambda item: item.example.line))


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS),
        CodeBlockParser("console", run_console),
        ShownParser(),
        SkipParser(),
    ],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/**/*.md"],
    excludes=["**/.venv/**"],
    setup=enter_folder,
    teardown=leave_folder,
).pytest()
