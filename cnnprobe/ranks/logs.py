"""The logs of the ranks in a folder."""

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
    """What each log says.

    Raises:
        ProbeError: a log is damaged, or is no log.
    """
    runs = []
    for rank, path in sorted(logs.items()):
        trace, history, findings = read_journal(path)
        log = history.rank or RankLog(info=RankInfo(rank=rank, of=len(logs)))
        if log.info.rank != rank:
            raise ProbeError(
                f"this is the log of rank {log.info.rank}",
                where=str(path),
                fix=f"name it rank{log.info.rank}.jsonl, as it was",
            )
        said = reading.read_plain(tuple[Finding, ...], findings)
        runs.append(
            RankRun(log=log, trace=trace, history=replace(history, rank=None), findings=said)
        )
    return runs
