"""Parameters or buffers that are no longer the same on all ranks."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, learn, make_net
from cnnprobe.ranks.runs import Parting, Ranks, find_parting, name_sides


def _loop(rank: int, *, skipped: int) -> Mapping[str, Any]:
    import contextlib

    found = learn(make_net(), draw(rank))
    model, train = found["model"], found["step"]

    def step(number: int) -> None:
        with model.no_sync() if number == skipped else contextlib.nullcontext():
            train(number)

    return {**found, "step": step}


def sick(rank: int) -> Mapping[str, Any]:
    """One step whose gradients are not reduced, as where no_sync() is left on too long."""
    return _loop(rank, skipped=2)


def healthy(rank: int) -> Mapping[str, Any]:
    """Every step is reduced."""
    return _loop(rank, skipped=-1)


@rank_rule(code="CP901", name="ranks-diverged", severity=Severity.ERROR, examples=(sick, healthy))
def ranks_diverged(ranks: Ranks) -> Iterator[Finding]:
    """A parameter or a buffer that should be the same on all ranks is not.

    Why it matters: each rank trains a model of its own from then on, and the checkpoint has one of
    them. The loss goes on falling, so that nobody sees it.
    What to do: reduce the gradients of every step that is followed by an optimizer's step; begin
    with the same parameters; change a buffer from numbers that all ranks have.
    Known exceptions: local SGD, which averages parameters now and then. Shards of fully_shard are
    not compared: each rank has its own. BatchNorm has a rule of its own, bn-not-synchronised.
    Source: the hash of every parameter and buffer before each observed step; torch.nn.parallel.
    DistributedDataParallel, "Internal Design": replicas stay equal as all apply the same gradients.
    """
    norms = {norm for run in ranks.runs for norm in run.info.norms}
    of_parameters = find_parting(ranks, "parameters", lambda _: True)
    of_buffers = find_parting(ranks, "buffers", lambda name: _get_owner(name) not in norms)
    for parting, kind in ((of_parameters, "parameter"), (of_buffers, "buffer")):
        if parting is not None:
            yield Finding(
                module=_get_owner(parting.name),
                message=_describe(parting, kind, ranks),
                fix=_advise(parting, kind, ranks),
            )


def _get_owner(name: str) -> str:
    return name.rpartition(".")[0]


def _describe(parting: Parting, kind: str, ranks: Ranks) -> str:
    total = max(run.history.total for run in ranks.runs)
    when = f"before step {parting.step}" if parting.step < total else "after the last step"
    since = (
        f"; before step {parting.seen_before} it was equal"
        if parting.seen_before is not None
        else ", the first that was looked at"
    )
    more = f"; {parting.others} more {kind}s differ" if parting.others > 1 else ""
    more = f"; 1 more {kind} differs" if parting.others == 1 else more
    return f"{kind} '{parting.name}' differs {name_sides(parting.groups)} {when}{since}{more}"


def _advise(parting: Parting, kind: str, ranks: Ranks) -> str:
    if kind == "buffer":
        return (
            f"change '{parting.name}' from numbers that all ranks have (all_reduce them first), or "
            "let DistributedDataParallel send it: broadcast_buffers=True"
        )
    if parting.seen_before is None:
        return (
            "begin with the same parameters: torch.distributed.broadcast each from rank 0, as "
            "DistributedDataParallel does"
        )
    if ranks.wrapper:
        return (
            f"look at step {parting.seen_before}: its last backward must not be in no_sync(), "
            "and nothing may change a gradient or a parameter on one rank alone"
        )
    return (
        "reduce the gradients of every step: all_reduce each and divide by the number of ranks, or "
        "use DistributedDataParallel"
    )
