"""A rank for which the others wait."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, learn, make_net
from cnnprobe.ranks.runs import Ranks
from cnnprobe.records.ranks import RankStep

_SHARE = 0.2  # of a step's time that the others wait
_LEAST = 0.02  # seconds; below them the scheduler of the machine decides who comes last
_CLEAR = 3.0  # standard deviations of the other ranks' own times
_OFTEN = 0.8  # of the steps in which the same rank is the last
_FEWEST = 3  # steps
_MANY = 10  # steps; in fewer the turns of a busy machine may fall on one rank
_WARM = 2  # steps: caches are filled, kernels chosen, workers started, buckets made anew
_RATIO = 0.5  # of the rest of the step, in one step
_ONCE = 0.1
"""Seconds of one step, without those in the queue for a processor: the longest turn that Linux
gives to another thread (RR_TIMESLICE, include/linux/sched/rt.h).
"""
_UNKNOWN = 0.25  # seconds of one step, where the time in the queue is not known


def _loop(rank: int, seconds: float) -> Mapping[str, Any]:
    import time

    found = learn(make_net(), draw(rank))
    train = found["step"]

    def step(number: int) -> None:
        if rank == 1 and seconds:  # to sleep for no time gives way to every other process
            time.sleep(seconds)  # a slow disk
        train(number)

    return {**found, "step": step}


def sick(rank: int) -> Mapping[str, Any]:
    """Rank 1 waits for its data in each step."""
    return _loop(rank, 0.2)


def healthy(rank: int) -> Mapping[str, Any]:
    """It does not."""
    return _loop(rank, 0.0)


@rank_rule(code="CP902", name="rank-straggles", severity=Severity.WARNING, examples=(sick, healthy))
def rank_straggles(ranks: Ranks) -> Iterator[Finding]:
    """One rank comes late to the reduction of gradients, and all others wait for it.

    Why it matters: a step takes as long as its slowest rank.
    What to do: look at the stage that is named: data (the loader of this rank, its disk, its number
    of workers), forward (its device, a larger batch, longer sequences), loss (what it alone does
    between forward and backward), backward (its device, its hooks) or update.
    Known exceptions: in one or two steps, as of a rank that writes the checkpoint, it is info. One
    step is judged from the third on, by 0.1 s and half of the rest of the step, without the time
    that the thread was ready and another had the processor (on Linux; elsewhere by 0.25 s). Over
    three steps and more, less than 20 ms, or than three standard deviations of the others' times,
    is not found; that time counts from ten steps on, as a machine that is too busy is a reason.
    The backward pass counts until this rank has the gradient of the first parameter of the model:
    the reduction, which waits for the others, comes after it. It is not compared where that
    gradient does not come last. Where forward and backward wait for the other ranks too, under
    fully_shard or with SyncBatchNorm, neither is compared. On a GPU the times are those in which
    work is launched.
    Source: Jiang et al. 2024, "MegaScale", section 5 (stragglers and their diagnosis).
    """
    steps = [
        said for _, said in ranks.steps() if all("forward" in s.seconds for s in said.values())
    ]
    stages = _list_own_stages(ranks, steps)
    often = _find_often(steps[1:] or steps, [s for s in stages if s != "update"])
    yield from [often] if often is not None else _find_stalls(steps, stages)


def _list_own_stages(ranks: Ranks, steps: Sequence[Mapping[int, RankStep]]) -> Sequence[str]:
    """Those in which no rank waits for another, as far as that is known."""
    infos = [run.info for run in ranks.runs]
    if any(info.sharded and info.wrapper != "FSDP2" for info in infos):
        return ("data",)
    waits = any(info.options.get("forward_waits", info.wrapper == "FSDP2") for info in infos)
    if waits:
        return ("data", "update")
    have = [{"reduction" in step.seconds for step in said.values()} for said in steps]
    is_split = {True} in have and {True, False} not in have
    return ("data", "forward", "loss", *(["backward"] if is_split else []), "update")


# -- in most steps ---------------------------------------------------------------------------------


def _find_often(steps: Sequence[Mapping[int, RankStep]], stages: Sequence[str]) -> Finding | None:
    if len(steps) < _FEWEST:
        return None
    if len(steps) < _MANY:
        steps = [{rank: _leave_queue_out(step) for rank, step in said.items()} for said in steps]
    late = [_find_latest(said, stages) for said in steps]
    usual = statistics.median(max(sum(s.seconds.values()) for s in said.values()) for said in steps)
    rank = statistics.mode(rank for rank, _ in late)
    mine = [excess for each, excess in late if each == rank]
    typical = statistics.median(mine)
    least = max(_LEAST, _SHARE * usual, _CLEAR * _spread(steps, rank, stages))
    if len(mine) < _OFTEN * len(steps) or typical < least:
        return None
    stage = _name_stage(steps, rank, stages)
    return Finding(
        message=(
            f"rank {rank} takes {typical:.3f} s longer than the others for {stage}, in "
            f"{len(mine)} of {len(steps)} steps: {typical / usual:.0%} of the time of a step "
            f"(more than {_SHARE:.0%})"
        ),
        fix=_advise(stage),
    )


def _find_latest(said: Mapping[int, RankStep], stages: Sequence[str]) -> tuple[int, float]:
    """The rank that comes last, and by how many seconds after the median of the others."""
    own = {rank: sum(step.seconds.get(s, 0.0) for s in stages) for rank, step in said.items()}
    last = max(own, key=lambda rank: own[rank])
    return last, own[last] - statistics.median(v for rank, v in own.items() if rank != last)


def _spread(steps: Sequence[Mapping[int, RankStep]], late: int, stages: Sequence[str]) -> float:
    """How much the own times of the other ranks vary from step to step: those of a busy machine do
    by more than a rank is late.
    """
    others = {rank for said in steps for rank in said} - {late}
    own = [
        [sum(said[rank].seconds.get(s, 0.0) for s in stages) for said in steps if rank in said]
        for rank in others
    ]
    return statistics.median(statistics.pstdev(times) for times in own)


def _name_stage(steps: Sequence[Mapping[int, RankStep]], rank: int, stages: Sequence[str]) -> str:
    def excess(stage: str) -> float:
        return statistics.median(
            said[rank].seconds.get(stage, 0.0)
            - statistics.median(s.seconds.get(stage, 0.0) for r, s in said.items() if r != rank)
            for said in steps
        )

    return max(stages, key=excess)


# -- in single steps -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stall:
    rank: int
    stage: str
    excess: float  # seconds
    least: float  # that it takes to be found


def _find_stalls(
    steps: Sequence[Mapping[int, RankStep]], stages: Sequence[str]
) -> Iterator[Finding]:
    """The rank that held up the others the longest in one step."""
    found: dict[int, _Stall] = {}  # by step
    for said in steps:
        number = next(iter(said.values())).step
        stall = _find_stall(said, stages) if number >= _get_first(steps) + _WARM else None
        if stall is not None:
            found[number] = stall
    if not found:
        return
    at = max(found, key=lambda number: found[number].excess)
    longest = found[at]
    mine = [number for number, stall in found.items() if stall.rank == longest.rank]
    between = sum(mine[0] <= next(iter(said.values())).step <= mine[-1] for said in steps)
    is_often = len(mine) >= max(_FEWEST, _OFTEN * between)
    more = f"; it came late in {len(mine)} of {between} steps" if len(mine) > 1 else ""
    yield Finding(
        severity=Severity.WARNING if is_often else Severity.INFO,
        message=(
            f"rank {longest.rank} held up the others by {longest.excess:.2f} s in step {at}, with "
            f"{longest.stage} (more than {longest.least} s and {_RATIO:.0%} of the rest of the "
            f"step){more}"
        ),
        fix=_advise(longest.stage),
    )


def _get_first(steps: Sequence[Mapping[int, RankStep]]) -> int:
    return next(iter(steps[0].values())).step


def _find_stall(said: Mapping[int, RankStep], stages: Sequence[str]) -> _Stall | None:
    """The first stage in which one rank was far behind the others: they may wait in a later one."""
    for stage in stages:
        own = {rank: _work(step, stage) for rank, step in said.items()}
        last = max(own, key=lambda rank: own[rank])
        excess = own[last] - statistics.median(v for rank, v in own.items() if rank != last)
        rest = sum(_work(said[last], each) for each in said[last].seconds) - excess
        least = _UNKNOWN if any(step.queued is None for step in said.values()) else _ONCE
        if excess >= max(least, _RATIO * rest):
            return _Stall(rank=last, stage=stage, excess=excess, least=least)
    return None


def _work(step: RankStep, stage: str) -> float:
    """The seconds of a stage without those in the queue for a processor."""
    return step.seconds.get(stage, 0.0) - (step.queued or {}).get(stage, 0.0)


def _leave_queue_out(step: RankStep) -> RankStep:
    return replace(step, seconds={stage: _work(step, stage) for stage in step.seconds})


def _advise(stage: str) -> str:
    if stage == "data":
        return "look at the loader of this rank: its disk, num_workers, and what it alone does"
    if stage == "forward":
        return "look at the device of this rank, and whether its batches are larger or longer"
    if stage == "backward":
        return "look at the device of this rank, and at what its hooks and backward functions do"
    return "look at what this rank alone does there, such as writing a file or printing"
