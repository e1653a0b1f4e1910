"""What a failing test is told beyond its own message: why a model crashed, and pages of the models
that it used.
"""

import contextlib
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cnnprobe.records.explanation import Explanation
    from cnnprobe.report import Report

_MOST_PAGES = 4


def probe_crashed_model(error: BaseException) -> "Report | None":
    """A report of the outermost model that raised, by one more neutral run of its call; None if the
    exception came from no model.
    """
    from torch import nn

    if not isinstance(error, Exception) or isinstance(error, AssertionError):
        return None
    entry = error.__traceback__
    while entry is not None:
        module = entry.tb_frame.f_locals.get("self")
        if (
            entry.tb_frame.f_code.co_name == "_wrapped_call_impl"
            and isinstance(module, nn.Module)
            and not _is_loss(module)
        ):
            return _probe_again(module, entry.tb_frame.f_locals)
        entry = entry.tb_next
    return None


def _is_loss(module: Any) -> bool:
    from torch.nn.modules import loss

    return isinstance(module, loss._Loss)


def _probe_again(module: Any, seen: dict[str, Any]) -> "Report | None":
    import cnnprobe

    with contextlib.suppress(Exception):  # the test's own failure is what counts; we only add to it
        found = cnnprobe.probe(module, *seen.get("args", ()), **seen.get("kwargs", {}))
        return found if found.error is not None else None
    return None


def explain_crash(error: BaseException, report: "Report | None") -> str:
    """Why it crashed, in a few lines; "" where that is not known, or where torch has no part in
    it.
    """
    from cnnprobe.crash import Crash, brief, explain

    explanation: Explanation | None = report.explanation if report is not None else None
    if (
        report is None
        and isinstance(error, Exception)
        and not isinstance(error, AssertionError)
        and _is_torchs(error.__traceback__)
    ):
        explanation = explain(Crash(error=error))
    return "" if explanation is None or explanation.diagnosis == "unknown" else brief(explanation)


def _is_torchs(entry: TracebackType | None) -> bool:
    """Whether it was raised below torch: in the loss, the backward pass, the optimizer, any
    function.
    """
    home = str(Path(sys.modules["torch"].__file__ or "").parent)
    while entry is not None:
        if entry.tb_frame.f_code.co_filename.startswith(home):
            return True
        entry = entry.tb_next
    return False


def write_pages(reports: "list[Report]", folder: Path, item: pytest.Item) -> list[str]:
    """One HTML file a report, named after the test: their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", item.nodeid).strip("_")[:120]
    paths = [
        folder / f"{name}{f'.{k}' if k else ''}.html" for k in range(len(reports[:_MOST_PAGES]))
    ]
    for path, report in zip(paths, reports, strict=False):
        report.save(path)
    return [str(path) for path in paths]


def probe_called_models(item: pytest.Item) -> "list[Report]":
    """Reports of the models that the test called, by one more neutral run each, from the inputs of
    its latest call.
    """
    import cnnprobe
    from cnnprobe.pytest_plugin.marker import CALLED

    called = item.stash.get(CALLED, None)
    reports = []
    for seen in called.latest() if called is not None else ():
        with contextlib.suppress(
            Exception
        ):  # the test's own failure is what counts; we only add to it
            reports.append(cnnprobe.probe(seen.model, *seen.args, **seen.kwargs))
    return reports
