"""Gradients that are added up over the ranks, or divided twice."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, label, learn, make_net
from cnnprobe.ranks.runs import Ranks
from cnnprobe.records.ranks import RankStep
from cnnprobe.records.words import format_counted

_CLOSE = 0.01  # relative; reduced in half precision, a gradient is off by less
_CLEAR = 0.05  # of the largest local gradient: below it the mean is a difference of rounded numbers


def _loop(rank: int, divisor: int) -> Mapping[str, Any]:
    import torch

    found = learn(make_net(), draw(rank), wrapped=False)
    model, optimizer, loss_fn = found["model"], found["optimizer"], found["loss_fn"]
    inputs = draw(rank)

    def step(number: int) -> None:
        x = inputs(number)
        optimizer.zero_grad()
        loss_fn(model(x), label(x)).backward()
        for parameter in model.parameters():
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= divisor
        optimizer.step()

    return {**found, "step": step}


def sick(rank: int) -> Mapping[str, Any]:
    """all_reduce adds up, and nobody divides."""
    return _loop(rank, 1)


def healthy(rank: int) -> Mapping[str, Any]:
    """Divided by the number of ranks."""
    return _loop(rank, 2)


@rank_rule(
    code="CP906", name="loss-not-averaged", severity=Severity.ERROR, examples=(sick, healthy)
)
def loss_not_averaged(ranks: Ranks) -> Iterator[Finding]:
    """The optimizer gets the sum of the ranks' gradients, not their mean, or a mean that is divided
    once more.

    Why it matters: the step is as many times too large, or too small, as there are ranks, and a
    learning rate that is good on one rank diverges on many.
    What to do: divide by the number of ranks once: after all_reduce, or by the loss, or leave it to
    DistributedDataParallel, which takes the mean of what each rank's loss gives.
    Known exceptions: a learning rate that was chosen for the sum. Clipped gradients are not judged.
    Source: torch.nn.parallel.DistributedDataParallel: gradients are averaged over the ranks.
    """
    found = [
        number for _, said in ranks.steps() if (number := _measure(said, ranks.of)) is not None
    ]
    if not found or ranks.missing:
        return
    ratio, factor = statistics.median(found), _read_factor(ranks)
    is_divided = factor is not None and abs(factor * ranks.of - 1) < _CLOSE
    if abs(ratio / ranks.of - 1) < _CLOSE and not is_divided:
        yield Finding(
            message=(
                f"the optimizer gets {ratio:.3g} times the mean of the gradients of {ranks.of} "
                f"ranks: their sum, in {format_counted(len(found), 'observed step')}"
            ),
            fix=f"divide by the number of ranks after all_reduce: parameter.grad /= {ranks.of}",
        )
    passes = max((s.passes for run in ranks.runs for s in run.log.steps), default=1)
    if abs(ratio - 1) < _CLOSE and is_divided and passes == 1:
        yield Finding(
            message=(
                f"the loss is divided by {ranks.of}, the number of ranks, and the mean of the "
                "ranks' gradients is taken too: the gradient is that many times too small"
            ),
            fix="leave the loss undivided: the gradients are averaged already",
        )


def _measure(said: Mapping[int, RankStep], of: int) -> float | None:
    """What the optimizer got over the mean of what the ranks had; None where it is not clear."""
    local = [step.local for step in said.values() if step.local is not None]
    used = [step.used for step in said.values() if step.used is not None]
    if len(local) < of or len(used) < of:
        return None
    mean, largest = sum(local) / of, max(map(abs, local))
    if abs(mean) <= _CLEAR * largest or max(used) - min(used) > 1e-6 * max(map(abs, used)):
        return None
    return used[0] / mean


def _read_factor(ranks: Ranks) -> float | None:
    """By what the loss was multiplied before the backward pass."""
    found = {run.log.loss_scale for run in ranks.runs}
    return found.pop() if len(found) == 1 else None
