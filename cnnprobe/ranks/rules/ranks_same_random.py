"""The same random numbers on several ranks."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, learn
from cnnprobe.ranks.runs import Ranks, group_ranks, name_ranks
from cnnprobe.records.words import format_counted


def _loop(rank: int, seed: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    found = learn(net, draw(rank))
    torch.manual_seed(seed)
    return found


def sick(rank: int) -> Mapping[str, Any]:
    """One seed for all ranks: the masks of Dropout are the same on each."""
    return _loop(rank, 0)


def healthy(rank: int) -> Mapping[str, Any]:
    """A seed of its own for each rank, after the model was made."""
    return _loop(rank, rank)


@rank_rule(code="CP911", name="ranks-same-random", severity=Severity.INFO, examples=(sick, healthy))
def ranks_same_random(ranks: Ranks) -> Iterator[Finding]:
    """Several ranks draw the same random numbers while they train.

    Why it matters: the masks of dropout and the augmentations that torch draws are the same on each
    rank, so that more ranks add less variety than they could.
    What to do: torch.manual_seed(seed + rank) after the model was made.
    Known exceptions: model parallelism, where ranks that hold parts of one layer must draw alike,
    is not judged. Numbers that decide which layers run have to be the same on all ranks.
    Source: the state of torch's generator on the CPU before each observed step.
    """
    if any(run.info.sharded and run.info.wrapper != "FSDP2" for run in ranks.runs):
        return
    states: list[Mapping[int, int]] = []
    for _, said in ranks.steps():
        known = {rank: s.random for rank, s in said.items() if s.random is not None}
        if len(known) > 1:
            states.append(known)
    drawn = [now for then, now in itertools.pairwise(states) if now != then]
    same = [group_ranks(now)[0] for now in drawn]
    if drawn and len(same[0]) > 1 and all(group == same[0] for group in same):
        yield Finding(
            message=(
                f"{name_ranks(same[0])} draw the same random numbers in {len(drawn)} of "
                f"{format_counted(len(states), 'observed step')}"
            ),
            fix="torch.manual_seed(seed + torch.distributed.get_rank()) after the model was made",
        )
