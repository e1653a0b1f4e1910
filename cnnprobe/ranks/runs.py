"""The runs of several ranks side by side, and what rules ask of them."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis import Finding
from cnnprobe.records.history import History
from cnnprobe.records.ranks import RankInfo, RankLog, RankStep, leave_last_out, split_hashes
from cnnprobe.records.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRun:
    """What one rank has left."""

    log: RankLog
    trace: Trace
    history: History
    findings: tuple[Finding, ...] = ()

    @property
    def rank(self) -> int:
        """Its number."""
        return self.log.info.rank

    @property
    def info(self) -> RankInfo:
        """How its model is distributed."""
        return self.log.info


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The runs that are there, by rank, and the numbers of those that are not."""

    runs: tuple[RankRun, ...]
    of: int
    missing: tuple[int, ...] = ()

    @property
    def wrapper(self) -> str:
        """How the model is distributed: "DistributedDataParallel", "FSDP2" or ""."""
        return self.runs[0].info.wrapper

    def steps(self) -> Iterator[tuple[int, Mapping[int, RankStep]]]:
        """Each observed step that several ranks have, and what each of them says of it."""
        found: dict[int, dict[int, RankStep]] = {}
        for run in self.runs:
            for step in run.log.steps:
                found.setdefault(step.step, {})[run.rank] = step
        for number in sorted(found):
            said = leave_last_out(found[number])
            if len(said) > 1:
                yield number, said


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """Where a tensor that should be the same on all ranks was first seen to differ."""

    step: int  # before its forward
    name: str  # the first one in the order of the model
    others: int  # how many more differ at that step
    groups: tuple[tuple[int, ...], ...]  # ranks that agree, the largest group first
    seen_before: int | None  # the last step at which all of them agreed


def find_parting(ranks: Ranks, kind: str, only: Callable[[str], bool]) -> Parting | None:
    """The first step before which a tensor differs between ranks.

    Args:
        ranks: the runs.
        kind: "parameters" or "buffers".
        only: whether a tensor of this name is looked at.
    """
    before: int | None = None
    names = {run.rank: getattr(run.info, kind) for run in ranks.runs}
    for number, said in ranks.steps():
        hashes = {
            rank: dict(zip(names[rank], split_hashes(text), strict=False))
            for rank, step in said.items()
            if (text := getattr(step, kind))
        }
        if len(hashes) < 2:
            continue
        first = next(iter(hashes.values()))
        differing = [
            name
            for name in first
            if only(name) and len({each.get(name) for each in hashes.values()}) > 1
        ]
        if differing:
            groups = group_ranks({rank: each.get(differing[0]) for rank, each in hashes.items()})
            return Parting(
                step=number,
                name=differing[0],
                others=len(differing) - 1,
                groups=groups,
                seen_before=before,
            )
        before = number
    return None


def group_ranks(values: Mapping[int, Any]) -> tuple[tuple[int, ...], ...]:
    """The ranks that have the same value, the largest group first.

    >>> group_ranks({0: "a", 1: "b", 2: "a"})
    ((0, 2), (1,))
    """
    groups: dict[Any, list[int]] = {}
    for rank in sorted(values):
        groups.setdefault(values[rank], []).append(rank)
    return tuple(sorted(map(tuple, groups.values()), key=lambda group: (-len(group), group)))


def name_ranks(ranks: Sequence[int]) -> str:
    """Ranks in words.

    >>> name_ranks([2]), name_ranks([0, 1]), name_ranks(range(9))
    ('rank 2', 'ranks 0 and 1', 'ranks 0, 1, 2, 3, 4, 5 and 3 more')
    """
    numbers = list(map(str, ranks))
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 8:
        numbers = [*numbers[:6], f"{len(numbers) - 6} more"]
    return f"ranks {', '.join(numbers[:-1])} and {numbers[-1]}"


def name_sides(groups: Sequence[Sequence[int]]) -> str:
    """The groups of ranks that do not agree, in words.

    >>> name_sides([(0, 1, 3), (2,)]), name_sides([(0,), (1,), (2,)])
    ('between ranks 0, 1 and 3 and rank 2', 'between ranks 0, 1 and 2, each from each')
    """
    if len(groups) == 2:
        return f"between {name_ranks(groups[0])} and {name_ranks(groups[1])}"
    every = sorted(rank for group in groups for rank in group)
    return f"between {name_ranks(every)}" + (
        ", each from each" if len(every) == len(groups) else f", in {len(groups)} groups"
    )


def take_median(steps: Iterable[RankStep], stage: str) -> float | None:
    """The median of the seconds of a stage over steps that have it; None where none has."""
    found = [step.seconds[stage] for step in steps if stage in step.seconds]
    return statistics.median(found) if found else None
