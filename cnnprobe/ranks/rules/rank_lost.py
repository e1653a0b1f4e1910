"""A rank that ended before the others."""

from collections.abc import Iterator

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.runs import RankRun, Ranks
from cnnprobe.records.ranks import LEFT_BY
from cnnprobe.records.words import format_counted

_SHOWN = 2  # exceptions of other ranks in the message


@rank_rule(code="CP910", name="rank-lost", severity=Severity.ERROR)
def rank_lost(ranks: Ranks) -> Iterator[Finding]:
    """A rank has ended, killed or crashed, while the others went on.

    Why it matters: the others wait for it in their next reduction, until the time limit of the
    process group, and what they say then is that a connection was closed.
    What to do: look at what this rank printed last and at the machine's memory: the kernel kills
    the process that takes too much.
    Known exceptions: logs that are merged while the training still runs are not finished either; a
    rank that is no further behind than the others is not found.
    Source: the end of the log of each rank.
    """
    furthest = max(run.history.total for run in ranks.runs)
    ended = any(run.log.finished for run in ranks.runs)
    raised = {run.rank: text for run in ranks.runs if (text := _describe_exception(run))}
    for run in ranks.runs:
        if not run.log.finished and (ended or run.history.total < furthest):
            others = [text for rank, text in raised.items() if rank != run.rank]
            yield Finding(
                message=(
                    f"rank {run.rank}{f' on {run.info.host}' if run.info.host else ''} ended in "
                    f"step {run.history.total}, without leaving the block of the monitor; the "
                    f"furthest rank made {format_counted(furthest, 'step')}"
                    f"{''.join(f'; {text}' for text in others[:_SHOWN])}"
                ),
                fix=f"look at what rank {run.rank} printed last, and whether its memory was full"
                + ("; or it was ended because of that exception" if others else ""),
            )


def _describe_exception(run: RankRun) -> str:
    note = next((note for note in run.history.notes if note.startswith(LEFT_BY)), "")
    return f"rank {run.rank} left it by {note.removeprefix(LEFT_BY)}" if note else ""
