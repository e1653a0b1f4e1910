"""Gradients that are reduced more often than they are used."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, label, learn, make_net
from cnnprobe.ranks.runs import Ranks

_PARTS = 2  # of the examples


def _loop(rank: int, *, syncs: bool) -> Mapping[str, Any]:
    import contextlib

    found = learn(make_net(), draw(rank))
    model, optimizer, loss_fn = found["model"], found["optimizer"], found["loss_fn"]
    inputs = draw(rank)

    def step(number: int) -> None:
        optimizer.zero_grad()
        for part in range(_PARTS):
            last = part == _PARTS - 1
            with contextlib.nullcontext() if syncs or last else model.no_sync():
                x = inputs(_PARTS * number + part)
                (loss_fn(model(x), label(x)) / _PARTS).backward()
        optimizer.step()

    return {**found, "step": step}


def sick(rank: int) -> Mapping[str, Any]:
    """Every part of the batch is reduced."""
    return _loop(rank, syncs=True)


def healthy(rank: int) -> Mapping[str, Any]:
    """The last part alone."""
    return _loop(rank, syncs=False)


@rank_rule(
    code="CP907", name="accumulate-without-no-sync", severity=Severity.WARNING,
    examples=(sick, healthy)
)  # fmt: skip
def accumulate_without_no_sync(ranks: Ranks) -> Iterator[Finding]:
    """Gradients are accumulated over several backward passes and reduced after each of them.

    Why it matters: all but the last reduction are sent in vain. The numbers are right, but the time
    is lost.
    What to do: with model.no_sync(): around forward and backward of all parts but the last.
    Known exceptions: under fully_shard no_sync costs memory, as gradients are kept unsharded; it is
    not judged there.
    Source: torch.nn.parallel.DistributedDataParallel.no_sync.
    """
    steps = [s for run in ranks.runs for s in run.log.steps if s.passes > 1]
    if ranks.wrapper != "DistributedDataParallel" or not steps:
        return
    passes = statistics.median_low(step.passes for step in steps)
    reduced = statistics.median_low(step.reduced for step in steps)
    if reduced > 1:
        size = max(run.info.gradient_bytes for run in ranks.runs)
        yield Finding(
            message=(
                f"{passes} backward passes in a step, and {reduced} reductions of "
                f"{size / 2**20:.3g} MiB each: {reduced - 1} more than needed"
            ),
            fix="with model.no_sync(): for all backward passes of a step but the last",
        )
