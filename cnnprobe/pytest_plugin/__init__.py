"""The pytest plugin: fixtures, a marker, snapshots and explanations. Imports neither torch nor rich
until a test asks for something.
"""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cnnprobe.pytest_plugin.snapshots import FOLDER, Snapshots, format_path

if TYPE_CHECKING:
    from cnnprobe.monitoring.runs import Monitor
    from cnnprobe.report import Report

MARKER = (
    "cnnprobe(finite=True, healthy=False): fail the test at the first module whose output has NaN "
    "or Inf; "
    "with healthy=True, also if any rule finds a fault in a model that the test called"
)
REPORTS = pytest.StashKey[
    "list[Report | Monitor]"
]()  # of a monitor the report as it is when the test fails
SNAPSHOTS = pytest.StashKey[Snapshots]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the group `cnnprobe`, and the ini keys."""
    group = parser.getgroup("cnnprobe", "cnnprobe: what is going on inside a model")
    group.addoption(
        "--cnnprobe-update",
        action="store_true",
        help="rewrite the architecture snapshots, and list those that changed",
    )
    group.addoption(
        "--cnnprobe-report",
        metavar="DIR",
        help="write an HTML report of each model that a failing test called",
    )
    group.addoption(
        "--cnnprobe",
        metavar="SPEC",
        help="test this model (pkg.mod:attr, file.py:Class, torchvision:NAME) without a test file",
    )
    group.addoption(
        "--cnnprobe-input",
        metavar="SHAPE",
        action="append",
        default=[],
        help="input of that model, such as 1,3,32,32; repeatable",
    )
    group.addoption(
        "--cnnprobe-arg",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="argument of its class or function; repeatable",
    )
    _add_ini_keys(parser)


def _add_ini_keys(parser: pytest.Parser) -> None:
    parser.addini(
        "cnnprobe_snapshot_dir",
        f"folder of the architecture snapshots, beside each test file (default {FOLDER})",
        default=FOLDER,
    )
    parser.addini(
        "cnnprobe_report_dir",
        "like --cnnprobe-report, relative to the project root (default: no reports)",
        default="",
    )
    parser.addini(
        "cnnprobe_checks",
        "checks that run in every test: finite, healthy (default: none)",
        type="args",
        default=[],
    )
    parser.addini(
        "cnnprobe_explain",
        "whether to explain crashes (default: true)",
        type="bool",
        default=True,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; with `--cnnprobe SPEC` and no paths, collect nothing else."""
    config.addinivalue_line("markers", MARKER)
    config.stash[SNAPSHOTS] = Snapshots(config)
    if find_report_folder(config) is not None or config.getini("cnnprobe_checks"):
        watch_tests(config)
    if config.getoption("--cnnprobe") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args[:] = []


def find_report_folder(config: pytest.Config) -> Path | None:
    """Where the pages of failing tests go, if they are asked for."""
    if option := config.getoption("--cnnprobe-report"):
        return Path(option)
    key = str(config.getini("cnnprobe_report_dir"))
    return config.rootpath / key if key else None


def watch_tests(config: pytest.Config) -> None:
    """Register the hooks around tests, once."""
    from cnnprobe.pytest_plugin import marker

    if not config.pluginmanager.has_plugin(marker.NAME):
        config.pluginmanager.register(
            marker.Watching(keeps_models=find_report_folder(config) is not None), marker.NAME
        )


# -- fixtures --------------------------------------------------------------------------------------


@pytest.fixture
def probe(request: pytest.FixtureRequest) -> "Callable[..., Report]":
    """`cnnprobe.probe`: one neutral forward pass of a model; its report is written out if the test
    fails and reports are asked for.
    """
    import cnnprobe

    reports = request.node.stash.setdefault(REPORTS, [])

    def probe_and_keep(model: Any, *args: Any, **kwargs: Any) -> "Report":
        report = cnnprobe.probe(model, *args, **kwargs)
        reports.append(report)
        return report

    return probe_and_keep


@pytest.fixture
def cnnprobe_monitor(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Monitor]]":
    """A function as `cnnprobe.monitor`, whose monitor is begun at once and ended with the test.

    Its history and findings are on the page of a failing test, where reports are asked for.
    """
    import cnnprobe

    reports = request.node.stash.setdefault(REPORTS, [])
    with contextlib.ExitStack() as running:

        def watch(model: Any, optimizer: Any = None, **options: Any) -> "Monitor":
            monitor = running.enter_context(cnnprobe.monitor(model, optimizer, **options))
            reports.append(monitor)
            return monitor

        yield watch


@pytest.fixture
def architecture_snapshot(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`architecture_snapshot(model, inputs=None, name="")` fails unless the model's architecture is
    what the snapshot beside the test says.

    A test that compares several models names them, or they are numbered.
    """
    from cnnprobe.testing import architecture_text

    snapshots: Snapshots = request.config.stash[SNAPSHOTS]
    names: list[str] = []

    def check(model: Any, inputs: Any = None, *, name: str = "") -> None:
        __tracebackhide__ = True
        names.append(name)
        again = names.count(name)
        numbered = ".".join(part for part in (name, str(again) if again > 1 else "") if part)
        snapshots.check(request.node, architecture_text(model, inputs), numbered)

    return check


# -- failing tests ---------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """A crash inside a model gains its explanation; a failing test its pages."""
    report = yield
    if (
        report.failed
        and report.when != "teardown"
        and "torch" in sys.modules
        and call.excinfo is not None
    ):
        folder = find_report_folder(item.config)
        if folder is not None or item.config.getini("cnnprobe_explain"):
            _tell(item, call.excinfo.value, report, folder)
    return report


def _tell(item: pytest.Item, error: BaseException, report: Any, folder: Path | None) -> None:
    from cnnprobe.pytest_plugin import crashes

    crashed = crashes.probe_crashed_model(error)
    if item.config.getini("cnnprobe_explain") and (text := crashes.explain_crash(error, crashed)):
        report.sections.append(("cnnprobe", text))
    if folder is not None:
        kept: list[Any] = [getattr(each, "report", each) for each in item.stash.get(REPORTS, [])]
        found = [
            *kept,
            *(each for each in (crashed, getattr(error, "report", None)) if each is not None),
        ]
        for path in crashes.write_pages(found or crashes.probe_called_models(item), folder, item):
            report.sections.append(("cnnprobe report", path))


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """What differs between two traces, reports or graphs that a test compares by `==`."""
    if op != "==" or "cnnprobe.records.trace" not in sys.modules:
        return None
    from cnnprobe.pytest_plugin.inequality import explain_inequality

    return explain_inequality(left, right)


# -- collection and summary ------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Remember which tests there are, watch them if any is marked, and add those of the model that
    `--cnnprobe` names.
    """
    is_whole = not any("::" in str(argument) for argument in config.args) and not config.getoption(
        "lf", default=False
    )
    if is_whole:
        config.stash[SNAPSHOTS].remember(items)
    if any(item.get_closest_marker("cnnprobe") for item in items):
        watch_tests(config)
    if spec := config.getoption("--cnnprobe"):
        from cnnprobe.pytest_plugin.model_items import make_items

        items.extend(make_items(session, spec))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of xdist hands what it saw to the controller."""
    snapshots = session.config.stash.get(SNAPSHOTS, None)
    output = getattr(session.config, "workeroutput", None)
    if snapshots is not None and output is not None:
        output["cnnprobe"] = (
            sorted(snapshots.used),
            snapshots.written,
            {k: sorted(v) for k, v in snapshots.collected.items()},
        )


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
    for title, paths in (
        ("written", sorted(snapshots.written)),
        ("not used by any test", snapshots.unused()),
    ):
        if paths:
            terminalreporter.section(f"cnnprobe: architecture snapshots {title}")
            for path in paths:
                terminalreporter.line(format_path(Path(path), config))
