"""The same batch on several ranks."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, learn, make_net
from cnnprobe.ranks.runs import Ranks, group_ranks, name_ranks

_SHARE = 0.5  # of the steps


def sick(rank: int) -> Mapping[str, Any]:
    """Every rank shuffles with the same seed, and no DistributedSampler parts the data."""
    return learn(make_net(), draw(0 * rank))


def healthy(rank: int) -> Mapping[str, Any]:
    """Each rank has its own batches."""
    return learn(make_net(), draw(rank))


@rank_rule(
    code="CP904", name="ranks-same-batch", severity=Severity.WARNING, examples=(sick, healthy)
)
def ranks_same_batch(ranks: Ranks) -> Iterator[Finding]:
    """Several ranks got the same batch.

    Why it matters: they do the same work, and the gradient is that of one batch. More ranks then
    make training no faster.
    What to do: DataLoader(..., sampler=DistributedSampler(dataset)), with sampler.set_epoch(epoch);
    with an IterableDataset let each rank skip what is another's.
    Known exceptions: tensor parallelism, where all ranks must have the same batch, is not judged. A
    test that trains on one batch on purpose.
    Source: torch.utils.data.distributed.DistributedSampler.
    """
    if any(run.info.sharded and run.info.wrapper != "FSDP2" for run in ranks.runs):
        return
    same: Counter[tuple[int, ...]] = Counter()
    seen = 0
    for _, said in ranks.steps():
        batches = {r: (s.batch, s.samples) for r, s in said.items() if s.batch is not None}
        seen += bool(batches)
        same.update(group for group in group_ranks(batches) if len(group) > 1)
    for group, count in same.most_common(1):
        if count >= _SHARE * seen:
            steps = "the only observed step" if seen == 1 else f"{count} of {seen} observed steps"
            yield Finding(
                message=f"{name_ranks(group)} got the same batch in {steps}",
                fix="give the loader a DistributedSampler, so that each rank gets its own part",
            )
