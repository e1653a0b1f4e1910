"""The runs of all ranks as one: trace, history, findings."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cnnprobe.diagnosis import Finding, in_order, run_rules
from cnnprobe.errors import ProbeError
from cnnprobe.ranks.merging import (
    count_steps,
    describe_merge,
    find_common_steps,
    find_first_nonfinite,
    merge_curves,
    merge_dead,
    merge_norms,
    merge_series,
)
from cnnprobe.ranks.rule import RankRule, all_rank_rules
from cnnprobe.ranks.runs import RankRun, Ranks, group_ranks, name_ranks, take_median
from cnnprobe.records.history import Curve, History, NonFinite, Series
from cnnprobe.records.ranks import STAGES, RankSummary
from cnnprobe.records.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What is said of all ranks."""

    trace: Trace
    history: History
    findings: tuple[Finding, ...]


def join(runs: Iterable[RankRun], rules: Sequence[RankRule] | None = None) -> Joined:
    """All ranks as one run.

    Args:
        runs: one or more, of one training.
        rules: those of ranks; None takes all.

    Raises:
        ProbeError: there is no run, two of them are of one rank, or they are of several trainings.
    """
    ordered = sorted(runs, key=lambda run: run.rank)
    _check(ordered)
    of = max(run.info.of for run in ordered)
    numbers = {run.rank for run in ordered}
    missing = tuple(rank for rank in range(of) if rank not in numbers)
    ranks = Ranks(runs=tuple(ordered), of=of, missing=missing)
    outcome = run_rules(ranks, all_rank_rules() if rules is None else rules)
    own = tuple(_collect_findings(ranks))
    findings = in_order((*outcome.findings, *own), all_rank_rules())
    shown = next((run for run in ordered if run.trace.calls), ordered[0])
    said = f"the calls of modules are those of rank {shown.rank}, in its first step"
    return Joined(
        trace=replace(shown.trace, notes=(*shown.trace.notes, said)),
        history=_merge(ranks, outcome.notes),
        findings=findings,
    )


def _check(runs: Sequence[RankRun]) -> None:
    if not runs:
        raise ProbeError(
            "no rank has left a log", where="the ranks", fix="give monitor(log=...) a folder"
        )
    numbers = [run.rank for run in runs]
    twice = next((rank for rank in numbers if numbers.count(rank) > 1), None)
    if twice is not None:
        raise ProbeError(
            f"two logs are of rank {twice}",
            where="the ranks",
            fix="merge the logs of one run alone",
        )
    known = next((run.info.run for run in runs if run.info.run), "")  # some may not have said it
    groups = group_ranks({run.rank: (run.info.of, run.info.run or known) for run in runs})
    if len(groups) > 1:
        of = {run.rank: run.info.of for run in runs}
        parts = [f"{name_ranks(group)} of a run of {of[group[0]]}" for group in groups]
        raise ProbeError(
            f"the logs are of {len(groups)} runs: {' and '.join(parts)}",
            where="the ranks",
            fix="remove the logs of an earlier run, and give each run a folder of its own",
        )


def _merge(ranks: Ranks, notes: Sequence[str]) -> History:
    runs = [run for run in ranks.runs if run.history.steps] or list(ranks.runs)
    steps = find_common_steps(runs)
    first = find_first_nonfinite(runs)
    series = tuple(merge_series(runs, steps)) if steps else ()
    history = replace(
        runs[0].history,
        steps=steps,
        total=count_steps(runs),
        curves=tuple(_merge_curves(runs, series, steps)),
        series=series,
        nonfinite=None if first is None else first[1],
        dead=tuple(merge_dead(runs)),
        notes=(),
        rank=None,
        ranks=tuple(_summarise(run) for run in ranks.runs),
    )
    said = (
        *describe_merge(history, runs, ranks.of),
        *_describe_thinning(runs),
        *_describe_missing(ranks),
        *notes,
    )
    return replace(history, notes=(*said, *_collect_notes(ranks.runs)))


def _merge_curves(
    runs: Sequence[RankRun], series: Sequence[Series], steps: Sequence[int]
) -> Iterator[Curve]:
    """The curves of all; of shards no rank knows the norms of all."""
    info = runs[0].info
    of_shards = {c.name: c for c in merge_norms(series, steps, info)} if info.sharded else {}
    for curve in merge_curves(runs):
        yield of_shards.get(curve.name, curve)


def _describe_thinning(runs: Sequence[RankRun]) -> Iterator[str]:
    if any(run.history.thinned for run in runs):
        yield (
            "the steps of this long run were thinned on each rank before they were merged: where "
            "two stand for many, the numbers of all ranks are those of their extremes"
        )


def _describe_missing(ranks: Ranks) -> Iterator[str]:
    if ranks.missing:
        yield f"{name_ranks(ranks.missing)} left nothing: what is said here is not of all ranks"


def _summarise(run: RankRun) -> RankSummary:
    history, steps = run.history, run.log.steps
    losses = next((curve.values for curve in history.curves if curve.name == "loss"), ())
    seconds = {stage: take_median(steps, stage) for stage in STAGES}
    return RankSummary(
        rank=run.rank,
        host=run.info.host,
        total=history.total,
        finished=run.log.finished,
        loss=losses[-1] if losses else None,
        samples=next((s.samples for s in reversed(steps) if s.samples is not None), None),
        seconds={stage: value for stage, value in seconds.items() if value is not None},
        nonfinite=_name_event(history.nonfinite),
    )


def _name_event(event: NonFinite | None) -> str:
    if event is None:
        return ""
    named = f" of '{event.fqn}'" if event.what != "loss" else ""
    return f"step {event.step}: {event.what}{named}"


def _collect_notes(runs: Sequence[RankRun]) -> Iterator[str]:
    """A sentence that all ranks say, once; another with its ranks."""
    said: dict[str, list[int]] = {}
    for run in runs:
        for note in run.history.notes:
            if not note.startswith("rank "):
                said.setdefault(note, []).append(run.rank)
    for note, ranks in said.items():
        yield note if len(ranks) == len(runs) else f"{name_ranks(ranks)}: {note}"


def _collect_findings(ranks: Ranks) -> Iterator[Finding]:
    """What the ranks have found by themselves; what all of them have found, once."""
    found: dict[tuple[str, str | None], list[tuple[int, Finding]]] = {}
    for run in ranks.runs:
        for finding in run.findings:
            found.setdefault((finding.rule, finding.module), []).append((run.rank, finding))
    for same in found.values():
        finding = same[0][1]
        numbers = list(dict.fromkeys(rank for rank, _ in same))
        if len(numbers) == len(ranks.runs):
            yield finding
        else:
            yield replace(finding, message=f"{name_ranks(numbers)}: {finding.message}")
