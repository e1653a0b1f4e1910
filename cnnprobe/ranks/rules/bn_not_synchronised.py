"""BatchNorm that sees the batch of one rank alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, learn, make_net, send_no_buffers
from cnnprobe.ranks.runs import Ranks, find_parting, name_sides

_SMALL = 8  # samples on a rank
_FIX = (
    "model = nn.SyncBatchNorm.convert_sync_batchnorm(model) before it is wrapped, or nn.GroupNorm"
)


def sick(rank: int) -> Mapping[str, Any]:
    """Running statistics that nobody sends to the other ranks."""
    return learn(make_net(norm=True), draw(rank), **send_no_buffers())


def healthy(rank: int) -> Mapping[str, Any]:
    """Those of rank 0 are sent to all, and the batch of a rank is not small."""
    return learn(make_net(norm=True), draw(rank))


@rank_rule(
    code="CP905", name="bn-not-synchronised", severity=Severity.WARNING, examples=(sick, healthy)
)
def bn_not_synchronised(ranks: Ranks) -> Iterator[Finding]:
    """BatchNorm normalises each rank's part of the batch by its own statistics, and these differ or
    are of few samples.

    Why it matters: running statistics that differ from rank to rank give another evaluation on each
    of them, and the checkpoint has those of one. Statistics of 8 samples cost about one percent of
    accuracy on ImageNet against those of 32, of 4 samples more than three.
    What to do: SyncBatchNorm, which takes the statistics of the whole batch, GroupNorm, or
    broadcast_buffers=True.
    Known exceptions: batches of more than 8 samples on each rank whose running statistics are those
    of rank 0 (broadcast_buffers=True, as it is by default).
    Source: Wu and He 2018, "Group Normalization", arXiv:1803.08494, table 2; torch.nn.
    SyncBatchNorm.
    """
    norms = {norm for run in ranks.runs for norm in run.info.norms}
    if not norms:
        return
    parting = find_parting(ranks, "buffers", lambda name: name.rpartition(".")[0] in norms)
    if parting is not None:
        sides = name_sides(parting.groups)
        more = f"; {parting.others} more differ" if parting.others else ""
        is_ddp = ranks.wrapper == "DistributedDataParallel"
        yield Finding(
            module=parting.name.rpartition(".")[0],
            message=f"'{parting.name}' differs {sides} before step {parting.step}{more}",
            fix=_FIX
            + ("; or DistributedDataParallel(..., broadcast_buffers=True)" if is_ddp else ""),
        )
        return
    training = {m.fqn for m in ranks.runs[0].trace.modules if m.training}
    samples = [s.samples for run in ranks.runs for s in run.log.steps if s.samples is not None]
    first = next((norm for norm in ranks.runs[0].info.norms if norm in training), None)
    if first is not None and samples and max(samples) <= _SMALL:
        yield Finding(
            module=first,
            message=(
                f"{len(norms)} BatchNorm {'layer takes' if len(norms) == 1 else 'layers take'} "
                f"statistics of {max(samples)} samples, those of one rank (at most {_SMALL}); all "
                f"{ranks.of} ranks have {max(samples) * ranks.of} together"
            ),
            fix=_FIX,
        )
