"""Reads back what was saved: reports of a model, of data, and the logs of trainings. Reading one
never imports torch.
"""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnprobe.diagnosis import Finding, Tried
from cnnprobe.errors import ProbeError, UsageError
from cnnprobe.graph import Graph
from cnnprobe.records import reading, schema
from cnnprobe.records.explanation import Explanation
from cnnprobe.records.history import History
from cnnprobe.records.trace import Trace
from cnnprobe.report import Report

TYPES: Mapping[str, Any] = {
    "trace": Trace,
    "findings": tuple[Finding, ...],
    "together": Tried | None,
    "explanation": Explanation | None,
    "graph": Graph | None,
    "history": History | None,
}
"""The type that reads back each of the `cnnprobe.report.PARTS`."""

_OF_DATA = "DataReport"


def load(path: str | os.PathLike[str]) -> Report | Any:
    """The report that `save` has written to a `.json` or an `.html` file, equal to the one that was
    saved; or what is in a log of `monitor(log=...)`, in a folder of such logs, one for each rank,
    or in "run.jsonl" where there are "run.rank0.jsonl" and so on.

    Returns:
        A Report; a DataReport where `inspect_data` made what was saved.

    Raises:
        ProbeError: the file is not there, is damaged, is no report, or comes from a newer version.
    """
    where = str(Path(path))
    is_log = ".jsonl" in Path(path).suffixes[-2:]  # also run.jsonl.1, that of a long run before it
    if Path(path).is_dir() or (is_log and not Path(path).exists() and _has_ranks(Path(path))):
        from cnnprobe.ranks import find_logs, join, read_runs

        joined = join(read_runs(find_logs(Path(path))))
        return Report(trace=joined.trace, findings=joined.findings, history=joined.history)
    if is_log:
        from cnnprobe.records.journal import read_journal  # numpy is for those who read one

        trace, history, findings = read_journal(path)
        return Report(
            trace=trace, findings=reading.read_plain(tuple[Finding, ...], findings), history=history
        )
    kind, parts = schema.parse_kind(
        _extract_json(_read_text(path, where), where),
        expected=(Report.__name__, _OF_DATA),
        where=where,
    )
    try:
        return _read_data(parts) if kind == _OF_DATA else Report(**_read_parts(parts))
    except ProbeError as error:
        raise ProbeError(
            f"the report is damaged: {error.what}",
            where=f"{where}, at {error.where}",
            fix=error.fix,
        ) from error


def _has_ranks(path: Path) -> bool:
    return any(path.parent.glob(f"{glob.escape(path.stem)}.rank*.jsonl"))


def _read_text(path: str | os.PathLike[str], where: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        kind = UsageError if isinstance(error, FileNotFoundError) else ProbeError
        raise kind(
            f"the report cannot be read: {error.strerror or error}",
            where=where,
            fix="check the path",
        ) from error
    except UnicodeDecodeError as error:
        raise ProbeError(
            "this is not JSON text",
            where=where,
            fix='give a file written by report.save("name.json")',
        ) from error


def _extract_json(text: str, where: str) -> str:
    """The text itself, or what a page carries."""
    if not text.lstrip().lower().startswith("<!doctype html"):
        return text
    from cnnprobe.document.render.page.packing import extract_data

    fix = (
        'give a page or a JSON file written by report.save("name.html") or report.save("name.json")'
    )
    try:
        data = extract_data(text)
    except ValueError as error:
        raise ProbeError(
            f"the report in this page is damaged: {error}", where=where, fix=fix
        ) from error
    if data is None:
        raise ProbeError("this page contains no report", where=where, fix=fix)
    return data


def _read_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a Report."""
    known = {**TYPES, "data": Any}
    unreadable = [name for name, part in data.items() if part and name not in known]
    if unreadable or "trace" not in data:
        what = (
            f"it contains {unreadable[0]!r}, which this version does not know"
            if unreadable
            else "its trace is missing"
        )
        raise ProbeError(
            what, where=Report.__name__, fix="load it with the version of cnnprobe that saved it"
        )
    parts = {
        name: reading.read_plain(kind, data[name]) for name, kind in TYPES.items() if name in data
    }
    of_data = data.get("data")
    return parts if of_data is None else {**parts, "data": _read_data(of_data)}


def _read_data(parts: Any) -> Any:
    from cnnprobe.data.report import DataReport  # for those who have a report of data

    return reading.read_plain(DataReport, parts)
