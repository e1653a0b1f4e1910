"""A recurrent state that stays as it was at first."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import complete
from cnnprobe.rulebook.material import classifying

_LEAST = 3  # calls in a row


def _reader(*, carried: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(6, 16), nn.Linear(16, 4)

        def forward(self, x: Any) -> Any:
            state = new = torch.zeros(len(x), 16)
            for step in range(x.shape[1]):
                new = self.cell(x[:, step], state)
                if carried:
                    state = new
            return self.head(new)

    torch.manual_seed(0)
    return {**classifying(Reader()), "inputs": torch.randn(8, 5, 6)}


def sick() -> Mapping[str, Any]:
    """Each step begins with the first state."""
    return _reader(carried=False)


def healthy() -> Mapping[str, Any]:
    """Each step begins with the state of the one before it."""
    return _reader(carried=True)


@rule(
    code="CP332",
    name="state-not-carried",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("unread-part",),
)
def state_not_carried(evidence: Evidence) -> Iterator[Finding]:
    """A module is called in a loop, and nothing reads what any call but the last one gives.

    Why it matters: the calls before the last one change nothing; a recurrent cell then sees the
    last step alone.
    What to do: give the next call the state of this one: h, c = cell(x, (h, c)).
    Known exceptions: fewer than three calls; results that are kept, or read by a loss.
    Source: torch.nn.LSTMCell, the example of its page: hx, cx = rnn(input[i], (hx, cx)).
    """
    if not complete(evidence):
        return
    flow = Flow(evidence.trace)
    below = _list_below(flow)
    held = evidence.steps[0].uses.held if evidence.steps and evidence.steps[0].uses else frozenset()
    loops: dict[tuple[str, int | None, str], list[int]] = defaultdict(list)
    for i, call in enumerate(flow.calls):
        if call.fqn and call.completed and not call.recomputed and call.parent is not None:
            loops[call.fqn, call.parent, call.source].append(i)
    for (fqn, _, source), rows in loops.items():
        if len(rows) < _LEAST or not _is_read(flow, below[rows[-1]], held):
            continue
        if any(_is_read(flow, below[i], held) for i in rows[:-1]):
            continue
        yield Finding(
            module=fqn,
            message=(
                f"{describe(flow.calls[rows[0]])} is called {len(rows)} times in a loop, but "
                f"nothing reads what its first {len(rows) - 1} calls give"
            ),
            fix="assign the result to the state that the next call gets, or keep each in a list",
            source=source,
        )
        return


def _list_below(flow: Flow) -> dict[int, set[int]]:
    """The rows of each row: itself, and all that lie in it."""
    found: dict[int, set[int]] = defaultdict(set)
    for i in range(len(flow.calls)):
        above: int | None = i
        while above is not None:
            found[above].add(i)
            above = flow.calls[above].parent
    return found


def _is_read(flow: Flow, rows: set[int], held: frozenset[int]) -> bool:
    """Whether a row outside of these reads one of them, or somebody holds its result."""
    return bool(rows & held) or any(set(flow.readers.get(i, ())) - rows for i in rows)
