"""The report of all ranks, made while they run."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cnnprobe.errors import ProbeError
from cnnprobe.monitoring.exchange import share
from cnnprobe.monitoring.judging import judge
from cnnprobe.ranks import Joined, RankRun, join
from cnnprobe.recorder.peers import find_store
from cnnprobe.records import reading, schema
from cnnprobe.records.ranks import RankLog
from cnnprobe.report import Report

if TYPE_CHECKING:
    from cnnprobe.monitoring.watch import Watch


def merge_ranks(watch: "Watch", log: RankLog, name: str, seconds: float) -> Report:
    """The report of all ranks that gave theirs within the time; see `Monitor.merged`.

    Raises:
        ProbeError: there is no process group to reach the others by.
    """
    store = find_store()
    if store is None:
        raise ProbeError(
            "there is no process group to reach the other ranks by",
            where=f"merged() on rank {log.info.rank}",
            fix="call it before destroy_process_group(), or merge the logs: cnnprobe.load(folder)",
        )
    history = replace(watch.history, rank=None)
    run = RankRun(log=log, trace=watch.trace, history=history, findings=judge(watch).findings)
    answer = share(
        store,
        name,
        json.dumps(schema.to_plain(run), allow_nan=False).encode(),
        _join,
        who=(log.info.rank, log.info.of),
        seconds=seconds,
    )
    joined = reading.read_plain(Joined, json.loads(answer))
    return Report(trace=joined.trace, findings=joined.findings, history=joined.history)


def _join(found: Mapping[int, bytes]) -> bytes:
    """The runs of all ranks as one."""
    runs = [reading.read_plain(RankRun, json.loads(each)) for each in found.values()]
    return json.dumps(schema.to_plain(join(runs)), allow_nan=False).encode()
