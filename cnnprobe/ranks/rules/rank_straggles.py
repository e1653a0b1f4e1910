"""A rank for which the others wait."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
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
_STALL = 0.25  # seconds of one step
_TIMES = 5.0  # the usual step


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
    of workers) or forward (its device, a larger batch, longer sequences).
    Known exceptions: a single long step, as of a rank that writes the checkpoint, is info. Less
    than 20 ms, or than three standard deviations of the others' times, is not found. Under
    fully_shard the forward waits for the other ranks too, so that only data is compared. On a GPU
    the times are those in which work is launched.
    Source: Jiang et al. 2024, "MegaScale", section 5 (stragglers and their diagnosis).
    """
    steps = [
        said for _, said in ranks.steps() if all("forward" in s.seconds for s in said.values())
    ]
    steps = steps[1:] or steps  # the first one warms up
    stages = ("data",) if ranks.wrapper == "FSDP2" else ("data", "forward")
    late = [_find_latest(said, stages) for said in steps]
    if not late:
        return
    usual = statistics.median(max(sum(s.seconds.values()) for s in said.values()) for said in steps)
    rank = statistics.mode(rank for rank, _ in late)
    mine = [excess for each, excess in late if each == rank]
    typical = statistics.median(mine)
    is_usual = len(steps) >= _FEWEST and len(mine) >= _OFTEN * len(steps)
    if is_usual and typical >= max(_LEAST, _SHARE * usual, _CLEAR * _spread(steps, rank, stages)):
        stage = _name_stage(steps, rank, stages)
        yield Finding(
            message=(
                f"rank {rank} takes {typical:.3f} s longer than the others for {stage}, in "
                f"{len(mine)} of {len(steps)} steps: {typical / usual:.0%} of the time of a step "
                f"(more than {_SHARE:.0%})"
            ),
            fix=_advise(stage),
        )
        return
    yield from _find_stalls(late, steps, stages)


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


def _find_stalls(
    late: Sequence[tuple[int, float]],
    steps: Sequence[Mapping[int, RankStep]],
    stages: Sequence[str],
) -> Iterator[Finding]:
    """The longest of single steps in which a rank held up the others."""
    longest = max(range(len(late)), key=lambda i: late[i][1])
    rank, excess = late[longest]
    others = [excess for i, (_, excess) in enumerate(late) if i != longest]
    if excess < max(_STALL, _TIMES * max(others, default=0.0)):
        return
    stage = _name_stage(steps[longest : longest + 1], rank, stages)
    yield Finding(
        severity=Severity.INFO,
        message=(
            f"rank {rank} held up the others by {excess:.2f} s in step "
            f"{steps[longest][rank].step}, with {stage} (more than {_STALL} s)"
        ),
        fix=_advise(stage),
    )


def _advise(stage: str) -> str:
    if stage == "data":
        return "look at the loader of this rank: its disk, num_workers, and what it alone does"
    return "look at the device of this rank, and whether its batches are larger or longer"
