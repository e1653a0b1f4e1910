"""A NaN that began on some ranks alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.ranks.rule import rank_rule
from cnnprobe.ranks.rules.material import draw, learn, make_net
from cnnprobe.ranks.runs import Ranks, name_ranks
from cnnprobe.records.history import NonFinite

_OWN = ("parameter", "activation", "loss")  # what a rank has of its own batch, before the reduction


def _loop(rank: int, *, spoilt: bool) -> Mapping[str, Any]:
    inputs = draw(rank)

    def draw_spoilt(number: int) -> Any:
        x = inputs(number)
        if spoilt and rank == 1 and number == 1:
            x[0, 0, 0, 0] = float("nan")
        return x

    return learn(make_net(), draw_spoilt)


def sick(rank: int) -> Mapping[str, Any]:
    """A damaged sample on rank 1."""
    return _loop(rank, spoilt=True)


def healthy(rank: int) -> Mapping[str, Any]:
    """All samples are finite."""
    return _loop(rank, spoilt=False)


@rank_rule(
    code="CP908", name="nan-on-one-rank", severity=Severity.ERROR, examples=(sick, healthy),
    explains=("nan-forward", "nan-backward", "nan-parameter", "nan-data", "divergence"),
)  # fmt: skip
def nan_on_one_rank(ranks: Ranks) -> Iterator[Finding]:
    """A NaN or Inf was met on some ranks first; the reduction has given it to all others.

    Why it matters: all ranks show NaN one step later, and the one that made it cannot be told any
    more.
    What to do: look at the batch and at the device of that rank; skip a step whose gradient is not
    finite on all ranks alike.
    Known exceptions: none known; where all ranks met it in the same step, nan-forward speaks of it.
    Source: the first value that is not finite, as each rank has seen it.
    """
    events = {run.rank: run.history.nonfinite for run in ranks.runs}
    first = min((e.step for e in events.values() if e is not None), default=None)
    own = {
        rank: event
        for rank, event in events.items()
        if event is not None and event.step == first and event.what in _OWN
    }
    if not own or len(own) == len(ranks.runs):
        return
    rank, event = next(iter(own.items()))
    named = {"loss": "the loss", "parameter": f"parameter '{event.fqn}'"}.get(
        event.what, f"the {event.what} of '{event.fqn}'"
    )
    where = f" ({event.kind})" if event.kind else ""
    given = next((info.stats for info in event.inputs if info.stats), None)
    from_input = given is not None and given.get("nan", 0) + given.get("inf", 0) > 0
    yield Finding(
        module=_get_module(event),
        message=(
            f"{named}{where} has {event.nan} NaN and {event.inf} Inf among {event.count} values in "
            f"step {event.step} on {name_ranks(list(own))} alone"
            + (", and so has what it was given" if from_input else "")
        ),
        fix=f"look at the batch of rank {rank} in step {event.step}",
    )


def _get_module(event: NonFinite) -> str | None:
    if event.what == "parameter":
        return event.fqn.rpartition(".")[0]
    return None if event.what == "loss" else event.fqn
