"""Remedies of slices: another part of an input in the place of one that is taken twice."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.call_lines import cut_elsewhere
from cnnprobe.remedies.kinds.calls import instead, rows_at
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.rulebook.one_position_for_all import read_index
from cnnprobe.rulebook.unread_part import find_cuts, say_places


@answers("unread-part")
def read_the_rest(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The unread part in the place of a slice that is taken a second time."""
    for unread in evidence.probes.unread if finding.kind != "output" else ():
        cuts = find_cuts(evidence, unread)
        rows = [flow.calls[i] for flow, i in cuts]
        twice = [c for c in rows if sum(_is_alike(c, other) for other in rows) > 1]
        width = {c.outputs[0].shape[unread.dim] for c in twice if c.outputs}
        part = say_places(unread)
        if width == {len(unread.places)} and ":" in part:
            call = twice[-1]
            turn = [c for c in rows if c.source == call.source and c.kind == call.kind].index(call)
            yield Remedy(
                title=f"take {part} of dim {unread.dim} where the same slice is taken again",
                change=lambda subject, c=call, u=unread, t=turn: subject.rewrite(  # type: ignore[misc]
                    c.kind, c.source, _Other(subject.model, u.dim, u.places[0], len(u.places), t)
                ),
                written=lambda c=call, u=unread, t=turn, p=part: cut_elsewhere(  # type: ignore[misc]
                    c.source, u.dim, t, p
                ),
                shows="every part of the input makes a difference",
                is_comparable=False,
            )


def _is_alike(a: ModuleCall, b: ModuleCall) -> bool:
    """Whether two rows take the same part: their values have the same statistics."""
    made, other = a.outputs[:1], b.outputs[:1]
    return a.kind == b.kind and len(a.outputs) == 1 and made[0].stats == other[0].stats


class _Other:
    """Takes another part of its input in one of the calls of a line."""

    def __init__(self, model: nn.Module, dim: int, start: int, length: int, turn: int) -> None:
        self.dim, self.start, self.length, self.turn = dim, start, length, turn
        self.count = 0
        model.register_forward_pre_hook(self.begin)

    def begin(self, *_: Any) -> None:
        """A forward of the model begins."""
        self.count = 0

    def __call__(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The other part, where it is its turn."""
        self.count += 1
        if self.count - 1 == self.turn:
            return args[0].narrow(self.dim, self.start, self.length)
        return func(*args, **kwargs)


@answers("one-position-for-all")
def take_each_position(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The rows of the table up to the length."""
    rows = [call for _, call in rows_at(finding, evidence)]
    index = read_index(rows[0]) if rows else None
    if index is None:
        return
    dim, size = index
    yield Remedy(
        title=f"take the rows up to the length, [:{size}] in place of [{size}]",
        change=instead(rows[0], lambda _func, args, _kwargs: torch.narrow(args[0], dim, 0, size)),
        shows="each position gets its own row",
        is_comparable=False,
    )
