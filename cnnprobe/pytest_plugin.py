"""The pytest plugin: fixtures, a marker, snapshots and explanations. Imports neither torch nor rich until a test asks for something."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cnnprobe.report import Report

MARKER = "cnnprobe(finite=True): fail the test at the first module of any model in it that puts out NaN or Inf"
SNAPSHOT_FOLDER = "__cnnprobe__"
REPORTS = pytest.StashKey["list[Report]"]()
SNAPSHOTS = pytest.StashKey["Snapshots"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the group `cnnprobe`."""
    group = parser.getgroup("cnnprobe", "cnnprobe: what is going on inside a model")
    group.addoption("--cnnprobe-update", action="store_true", help="write the architecture snapshots anew, and say which changed")
    group.addoption("--cnnprobe-report", metavar="DIR", help="write an HTML report for each failing test that probed a model")
    group.addoption(
        "--cnnprobe", metavar="SPEC", help="test this model (pkg.mod:attr, file.py:Class, torchvision:NAME) without a test file"
    )
    group.addoption(
        "--cnnprobe-input", metavar="SHAPE", action="append", default=[], help="input of that model, such as 2,3,32,32; repeatable"
    )
    parser.addini(
        "cnnprobe_snapshot_dir",
        f"folder of the architecture snapshots, beside each test file (default {SNAPSHOT_FOLDER})",
        default=SNAPSHOT_FOLDER,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; with `--cnnprobe SPEC` and no paths, collect nothing else."""
    config.addinivalue_line("markers", MARKER)
    config.stash[SNAPSHOTS] = Snapshots(config)
    if config.getoption("--cnnprobe") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args[:] = []


# -- fixtures -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def probe(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """`cnnprobe.probe`: one neutral forward pass of a model; its report is written out if the test fails and reports are asked for."""
    import cnnprobe

    reports = request.node.stash.setdefault(REPORTS, [])

    def probe_and_keep(model: Any, *args: Any, **kwargs: Any) -> Report:
        report = cnnprobe.probe(model, *args, **kwargs)
        reports.append(report)
        return report

    return probe_and_keep


@pytest.fixture
def architecture_snapshot(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`architecture_snapshot(model, inputs=None, name="")` fails unless the model's architecture is what the snapshot beside the test says."""
    from cnnprobe.testing import architecture_text

    snapshots: Snapshots = request.config.stash[SNAPSHOTS]

    def check(model: Any, inputs: Any = None, *, name: str = "") -> None:
        __tracebackhide__ = True
        snapshots.check(request.node, architecture_text(model, inputs), name)

    return check


# -- snapshots ----------------------------------------------------------------------------------------------------------------


class Snapshots:
    """The snapshots of a run: which were used, and which were written."""

    def __init__(self, config: pytest.Config) -> None:
        self.folder = str(config.getini("cnnprobe_snapshot_dir"))
        self.updates = bool(config.getoption("--cnnprobe-update"))
        self.used: set[str] = set()
        self.written: list[str] = []
        self.collected: dict[str, set[str]] = {}

    def path_of(self, item: pytest.Item, name: str) -> Path:
        """Where the snapshot of a test lies: FOLDER/test_file/test_name[.name].txt."""
        stem = re.sub(r"[^\w.=-]+", "_", item.name).strip("_") + (f".{name}" if name else "")
        return item.path.parent / self.folder / item.path.stem / f"{stem}.txt"

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
        if expected is None:
            raise AssertionError(
                f"there is no snapshot of this architecture yet\n  where: {path}\n  fix:   run pytest --cnnprobe-update, read the file, and commit it"
            )
        raise AssertionError(difference(expected, actual, path))

    def unused(self) -> list[str]:
        """Snapshots of collected test files that belong to no test of theirs any more."""
        found = []
        for folder, names in self.collected.items():
            for path in sorted(Path(folder).glob("*.txt")):
                owner = any(path.stem == name or path.stem.startswith(f"{name}.") for name in names)
                if not owner and str(path) not in self.used:
                    found.append(str(path))
        return found


def difference(expected: str, actual: str, path: Path) -> str:
    """The message of a snapshot that differs."""
    import difflib

    lines = [
        line
        for line in difflib.unified_diff(expected.splitlines(), actual.splitlines(), n=1, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]
    changed = sum(line.startswith(("+", "-")) for line in lines)
    body = "\n".join(f"  {line}" for line in lines)
    return f"the architecture differs from its snapshot in {changed} lines (- snapshot, + now)\n{body}\n  where: {path}\n  fix:   correct the model, or accept the change with pytest --cnnprobe-update"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that another process sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


# -- the marker ---------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Watch every model of a marked test."""
    mark = item.get_closest_marker("cnnprobe")
    if mark is None:
        return (yield)
    from cnnprobe.testing.watching import Watch

    with Watch(**mark.kwargs):
        return (yield)


# -- explanations and reports -------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A crash inside a model gains its explanation; a failing test its HTML reports."""
    report = yield
    if report.when == "call" and report.failed and "torch" in sys.modules and call.excinfo is not None:
        reports = item.stash.get(REPORTS, [])
        crash = explain_crash(call.excinfo)
        if crash is not None:
            report.sections.append(("cnnprobe", crash.to("text", width=100)))
            reports = [*reports, crash]
        if folder := item.config.getoption("--cnnprobe-report"):
            write_reports(reports, Path(folder), item, report)
    return report


def explain_crash(excinfo: pytest.ExceptionInfo[BaseException]) -> Report | None:
    """A report of the model that raised, by one more neutral run of its call; None if the exception came from no model."""
    from torch import nn

    if not isinstance(excinfo.value, Exception):
        return None
    for entry in excinfo.traceback:
        frame = entry.frame
        if frame.code.name == "_wrapped_call_impl" and isinstance(frame.f_locals.get("self"), nn.Module):
            import cnnprobe

            seen = frame.f_locals
            try:
                found = cnnprobe.probe(seen["self"], *seen.get("args", ()), **seen.get("kwargs", {}))
            except Exception:  # the test's own failure is what counts; we only add to it
                return None
            return found if found.error is not None else None
    return None


def write_reports(reports: list[Report], folder: Path, item: pytest.Item, report: Any) -> None:
    """One HTML file a report, named after the test."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", item.nodeid).strip("_")
    for k, found in enumerate(reports):
        path = folder / f"{name}{f'.{k}' if k else ''}.html"
        found.save(path)
        report.sections.append(("cnnprobe report", str(path)))


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """What differs between two traces or reports that a test compares by `==`."""
    if op != "==" or "cnnprobe.trace" not in sys.modules:
        return None
    from cnnprobe.trace import Trace

    first, second = (getattr(value, "trace", value) for value in (left, right))
    if not (isinstance(first, Trace) and isinstance(second, Trace)):
        return None
    import difflib

    lines = difflib.unified_diff(rows_of(second), rows_of(first), "right", "left", n=1, lineterm="")
    return [f"{first.model} == {second.model}: the traces differ", *lines]


def rows_of(trace: Any) -> list[str]:
    """A call a line: name, kind, shapes."""
    return [
        f"{call.fqn if call.fqn is not None else '-'}  {call.kind}  {', '.join(str(t.shape) for t in call.inputs)} -> {', '.join(str(t.shape) for t in call.outputs)}"
        for call in trace.calls
    ]


# -- collection and summary ---------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remember which tests there are, and add those of the model that `--cnnprobe` names."""
    snapshots: Snapshots = config.stash[SNAPSHOTS]
    if not any("::" in str(argument) for argument in config.args):
        for item in items:
            folder = snapshots.path_of(item, "").parent
            snapshots.collected.setdefault(str(folder), set()).add(snapshots.path_of(item, "").stem)
    if spec := config.getoption("--cnnprobe"):
        from cnnprobe.testing.model_checks import CHECKS

        items.extend(ModelCheck.from_parent(session, name=f"{spec}::{name}", check=name) for name in CHECKS)


class ModelCheck(pytest.Item):
    """One check of the model that `--cnnprobe` names."""

    def __init__(self, *, check: str, **options: Any) -> None:
        super().__init__(**options)
        self.check = check

    def runtest(self) -> None:
        """Build the model and its inputs, and run the check."""
        from cnnprobe.testing.model_checks import run

        run(self.check, str(self.config.getoption("--cnnprobe")), tuple(self.config.getoption("--cnnprobe-input")))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message alone, where it is one of ours."""
        from cnnprobe.errors import ProbeError

        if isinstance(excinfo.value, AssertionError | ProbeError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it stands in the report."""
        return self.path, None, self.check


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of xdist hands what it saw to the controller."""
    snapshots = session.config.stash.get(SNAPSHOTS, None)
    output = getattr(session.config, "workeroutput", None)
    if snapshots is not None and output is not None:
        output["cnnprobe"] = (sorted(snapshots.used), snapshots.written, {k: sorted(v) for k, v in snapshots.collected.items()})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The controller of xdist takes up what a worker saw."""
    used, written, collected = getattr(node, "workeroutput", {}).get("cnnprobe", ((), (), {}))
    snapshots: Snapshots = node.config.stash[SNAPSHOTS]
    snapshots.used.update(used)
    snapshots.written.extend(written)
    for folder, names in collected.items():
        snapshots.collected.setdefault(folder, set()).update(names)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Snapshots that were written, and those that no test uses any more."""
    snapshots: Snapshots = config.stash[SNAPSHOTS]
    for title, paths in (("written", sorted(snapshots.written)), ("not used by any test", snapshots.unused())):
        if paths:
            terminalreporter.section(f"cnnprobe: architecture snapshots {title}")
            for path in paths:
                terminalreporter.line(path)
