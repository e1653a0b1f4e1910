"""A parameter that has a gradient on some ranks alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, label, learn
from cnnprobe.ranks.runs import Ranks, name_ranks
from cnnprobe.records.ranks import RankStep


def _loop(rank: int, *, everywhere: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(108, 3)
            self.side = nn.Linear(108, 3)

        def forward(self, x: Any) -> Any:
            x = x.flatten(1)
            return self.body(x) + (self.side(x) if everywhere or rank == 0 else 0)

    torch.manual_seed(0)
    found = learn(Net(), draw(rank), wrapped=False)
    model, optimizer, loss_fn = found["model"], found["optimizer"], found["loss_fn"]
    inputs = draw(rank)

    def step(number: int) -> None:
        x = inputs(number)
        optimizer.zero_grad()
        loss_fn(model(x), label(x)).backward()
        for parameter in model.parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.distributed.all_reduce(gradient)  # what rank 1 gets for nothing, it drops
            gradient /= torch.distributed.get_world_size()
        optimizer.step()

    return {**found, "step": step}


def sick(rank: int) -> Mapping[str, Any]:
    """A branch that rank 1 does not take."""
    return _loop(rank, everywhere=False)


def healthy(rank: int) -> Mapping[str, Any]:
    """A branch that all ranks take."""
    return _loop(rank, everywhere=True)


@rank_rule(
    code="CP903", name="rank-without-gradient", severity=Severity.ERROR, examples=(sick, healthy),
    explains=("ranks-diverged",),
)  # fmt: skip
def rank_without_gradient(ranks: Ranks) -> Iterator[Finding]:
    """A parameter got a gradient on some ranks and none on others.

    Why it matters: the others wait for its gradient in the reduction, forever or until the time
    limit of the process group; DistributedDataParallel says "Expected to have finished reduction in
    the prior iteration" in the step after.
    What to do: take the branch on every rank (add 0 times its output where it is not meant), or
    DistributedDataParallel(..., find_unused_parameters=True).
    Known exceptions: with find_unused_parameters=True the missing gradient counts as zero, and
    nothing is found.
    Source: torch.nn.parallel.DistributedDataParallel, "Forward Pass" and find_unused_parameters.
    """
    for number, said in _list_steps(ranks):
        missing = {rank: set(step.without_gradient) for rank, step in said.items()}
        for rank, names in missing.items():
            others = [other for other in missing if other != rank]
            partial = [
                name
                for name in said[rank].without_gradient
                if any(name not in missing[other] for other in others)
                or (not others and name not in _find_idle(ranks, rank, number))
            ]
            if names and partial:
                yield Finding(
                    module=partial[0].rpartition(".")[0],
                    message=_describe(ranks, number, said, partial),
                    fix="use it in the forward of every rank, or find_unused_parameters=True",
                )
                return


def _list_steps(ranks: Ranks) -> Iterator[tuple[int, Mapping[int, RankStep]]]:
    """Each step that a rank has finished; the others may wait in it."""
    found: dict[int, dict[int, RankStep]] = {}
    for run in ranks.runs:
        for step in run.log.steps:
            if "forward" in step.seconds:
                found.setdefault(step.step, {})[run.rank] = step
    for number in sorted(found):
        waits = any(run.history.total <= number for run in ranks.runs)
        if len(found[number]) > 1 or waits:
            yield number, found[number]


def _find_idle(ranks: Ranks, rank: int, number: int) -> frozenset[str]:
    """The parameters that had no gradient in an earlier step either."""
    run = next(run for run in ranks.runs if run.rank == rank)
    earlier = [s for s in run.log.steps if s.step < number and "forward" in s.seconds]
    return frozenset(earlier[-1].without_gradient) if earlier else frozenset()


def _describe(ranks: Ranks, number: int, said: Mapping[int, RankStep], partial: list[str]) -> str:
    name = partial[0]
    without = [rank for rank, step in said.items() if name in step.without_gradient]
    waiting = [run.rank for run in ranks.runs if run.rank not in said]
    others = [rank for rank in said if rank not in without]
    told = f"'{name}' got no gradient on {name_ranks(without)} in step {number}"
    told += f", but it did on {name_ranks(others)}" if others else ""
    told += f"; {name_ranks(waiting)} did not come to the end of this step" if waiting else ""
    more = len(partial) - 1
    return told + (f"; so do {more} more" if more > 1 else "; so does 1 more" if more else "")
