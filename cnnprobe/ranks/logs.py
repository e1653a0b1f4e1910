"""The logs of the ranks in a folder."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cnnprobe.diagnosis import Finding
from cnnprobe.errors import ProbeError
from cnnprobe.ranks.runs import RankRun
from cnnprobe.records import reading
from cnnprobe.records.journal import read_journal
from cnnprobe.records.ranks import RankInfo, RankLog

_NAME = re.compile(r"^(?:(.*)\.)?rank(\d+)\.jsonl$")

_LONGEST = 2**16  # bytes of the first line


def find_logs(path: Path) -> dict[int, Path]:
    """The log of each rank: those in a folder, or "run.rank0.jsonl" and so on for "run.jsonl".

    Raises:
        ProbeError: there is none, or there are those of several runs.
    """
    folder = path if path.is_dir() else path.parent
    stem = None if path.is_dir() else path.name.removesuffix(".jsonl")
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.glob("*rank*.jsonl")):
        name = _NAME.match(file.name)
        if name is not None and stem in (None, name[1] or ""):
            found.setdefault(name[1] or "", {})[int(name[2])] = file
    if not found:
        raise ProbeError(
            "there is no log of a rank",
            where=str(path),
            fix="give the folder that monitor(log=...) got, with files such as rank0.jsonl",
        )
    if len(found) > 1:
        names = sorted(found)
        raise ProbeError(
            f"there are the logs of {len(found)} runs: {', '.join(map(repr, names[:4]))}",
            where=str(path),
            fix=f"name one of them: {path / (names[-1] + '.jsonl')}",
        )
    return next(iter(found.values()))


def read_runs(logs: dict[int, Path]) -> Sequence[RankRun]:
    """What each log says; one that has not even a first line is that of a rank which left nothing.

    Raises:
        ProbeError: a log is damaged, or is no log, or nothing has been written yet.
    """
    begun = {rank: path for rank, path in sorted(logs.items()) if _has_begun(path)}
    if not begun:
        raise ProbeError(
            "nothing has been written yet",
            where=str(next(iter(logs.values()))),
            fix="read it again after the first step, or look at what the training printed",
        )
    read = {rank: read_journal(path) for rank, path in begun.items()}
    of = max((h.rank.info.of for _, h, _ in read.values() if h.rank), default=len(logs))
    runs = []
    for rank, (trace, history, findings) in read.items():
        # A rank that was killed in its first step has not said who it is.
        log = history.rank or RankLog(info=RankInfo(rank=rank, of=of))
        if log.info.rank != rank:
            raise ProbeError(
                f"this is the log of rank {log.info.rank}",
                where=str(begun[rank]),
                fix=f"name it rank{log.info.rank}.jsonl, as it was",
            )
        said = reading.read_plain(tuple[Finding, ...], findings)
        runs.append(
            RankRun(log=log, trace=trace, history=replace(history, rank=None), findings=said)
        )
    return runs


def _has_begun(path: Path) -> bool:
    """Whether there is more than the beginning of a first line."""
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST)
    except OSError:
        return True  # who reads it says what is wrong
    if line.endswith(b"\n") or not line.startswith(b"{"):
        return bool(line)
    try:
        json.loads(line)
    except ValueError:
        return len(line) == _LONGEST
    return True
