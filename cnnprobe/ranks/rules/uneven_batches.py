"""Batches, or numbers of steps, that differ between ranks."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, learn, make_net
from cnnprobe.ranks.runs import Ranks


def sick(rank: int) -> Mapping[str, Any]:
    """The last batch of rank 1 is the rest of its data."""
    whole, rest = draw(rank), draw(rank, samples=5)
    return learn(make_net(), lambda number: rest(number) if rank and number == 2 else whole(number))


def healthy(rank: int) -> Mapping[str, Any]:
    """All batches are of one size."""
    return learn(make_net(), draw(rank))


@rank_rule(code="CP909", name="uneven-batches", severity=Severity.INFO, examples=(sick, healthy))
def uneven_batches(ranks: Ranks) -> Iterator[Finding]:
    """The ranks have batches of different sizes in one step, or make different numbers of steps.

    Why it matters: the mean over ranks gives each sample of a small batch more weight; and a rank
    that makes one more step than the others waits for them forever.
    What to do: drop_last=True for sampler and loader, or weigh each loss by its number of samples;
    DistributedDataParallel.join() for different numbers of steps.
    Known exceptions: one short batch at the end of an epoch hardly matters.
    Source: torch.nn.parallel.DistributedDataParallel.join; DistributedSampler, drop_last.
    """
    for number, said in ranks.steps():
        sizes = {rank: s.samples for rank, s in said.items() if s.samples is not None}
        if len(set(sizes.values())) > 1:
            told = ", ".join(str(sizes[rank]) for rank in sorted(sizes)[:8])
            least, most = min(sizes.values()), max(sizes.values())
            yield Finding(
                message=(
                    f"the batches of the ranks have {told} samples in step {number}: a sample of "
                    f"the smallest weighs {most / max(1, least):.3g} times one of the largest"
                ),
                fix="DistributedSampler(..., drop_last=True) and DataLoader(..., drop_last=True)",
            )
            break
    totals = {run.rank: run.history.total for run in ranks.runs if run.log.finished}
    if len(set(totals.values())) > 1:
        told = ", ".join(f"{total} on rank {rank}" for rank, total in list(totals.items())[:8])
        yield Finding(
            severity=Severity.WARNING,
            message=f"the ranks made different numbers of steps: {told}",
            fix="give every rank as many batches, or use DistributedDataParallel.join()",
        )
