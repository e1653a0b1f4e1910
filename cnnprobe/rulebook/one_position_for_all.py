"""A row of a table of positions that is added to all positions."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.meanings import Meanings
from cnnprobe.diagnosis.evidence.pieces import list_roles
from cnnprobe.diagnosis.evidence.questions import batch_size, spoken
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying

SEQUENCES = 3  # dims of a batch of them


def _read(every: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
            self.mix = nn.MultiheadAttention(16, 2, batch_first=True)
            self.places = nn.Parameter(torch.randn(1, 20, 16) * 0.1)

        def forward(self, x: Any) -> Any:
            steps = x.shape[1]
            h = self.inp(x) + (self.places[:, :steps] if every else self.places[:, steps])
            return self.head((h + self.mix(h, h, h)[0]).mean(1))

    torch.manual_seed(0)
    return {**classifying(Reader()), "inputs": torch.randn(8, 9, 6)}


def sick() -> Mapping[str, Any]:
    """The row behind the last position is added to each position."""
    return _read(every=False)


def healthy() -> Mapping[str, Any]:
    """Each position has its own row."""
    return _read(every=True)


@rule(
    code="CP742", name="one-position-for-all", severity=Severity.WARNING, examples=(sick, healthy)
)
def one_position_for_all(evidence: Evidence) -> Iterator[Finding]:
    """One row of a table of positions is added to all positions of a sequence: row L of a table
    for L positions, or row n for sample n, also where the table has as many rows as the batch has
    samples.

    Why it matters: each position gets the same values, so the model cannot tell their order; and a
    row for each sample tells what place it has in its batch.
    What to do: take the rows up to the length, pe[:, :x.shape[1]] in place of pe[:, x.shape[1]]; a
    table of (length, 1, features) fits (L, N, features) alone. Make a table of (1, length,
    features), without the batch.
    Known exceptions: a row whose index is not the length of the sequence, as that of a level or of
    a time step; tables of which several rows are read; sequences of one step.
    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.5; torch's basic indexing:
    an integer takes a dim away.
    """
    flow = Flow(evidence.trace)
    for i, size in find_rows_for_all(flow):
        call = flow.calls[i]
        table = call.inputs[0]
        yield Finding(
            module=flow.owner(i),
            message=(
                f"row {size} of {spoken(evidence, str(table.source))}, of shape {table.shape}, is "
                f"added to all {size} positions of the sequence: each gets the same values"
            ),
            fix=f"take the rows up to the length, [:{size}] in place of [{size}]",
            source=flow.line(i),
            subject=describe(call),
        )
    yield from _find_rows_by_sample(evidence)
    yield from _find_tables_by_sample(evidence)


def _find_tables_by_sample(evidence: Evidence) -> Iterator[Finding]:
    """Trained tables that hold as many rows as the batch has samples, and are added as they are."""
    meanings = Meanings(evidence)
    flow = meanings.flow
    for i in flow.primitives({"add"}):
        inputs = flow.calls[i].inputs
        tables = [t for t in inputs if isinstance(t.source, str) and t.requires_grad]
        rest = [t for t in inputs if isinstance(t.source, int)]
        if len(tables) != 1 or len(rest) != 1 or flow.owner(i) is None:
            continue
        table, other = tables[0], rest[0]
        if not _is_by_sample(table.shape, other.shape):
            continue
        is_batch = other.shape[0] == batch_size(evidence) != other.shape[1]
        if is_batch and list_roles(meanings.read(other)[0]) <= {"batch", ""}:
            wanted = (1, *other.shape[1:])
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{spoken(evidence, str(table.source))}, of shape {table.shape}, is added to "
                    f"the {other.shape[0]} samples of {other.shape}: each has a row of its own, "
                    "by its place in the batch"
                ),
                fix=f"make it of shape {wanted}: a row for each position, the same for all samples",
                source=flow.line(i),
                subject=describe(flow.calls[i]),
                kind="table-by-sample",
            )
            return


def _is_by_sample(table: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether a table has a row for each sample of a batch of sequences, (N, L, features)."""
    return (
        len(table) == len(other) == SEQUENCES
        and table[0] == other[0] > 1
        and table[1] in (1, other[1])
    )


def _find_rows_by_sample(evidence: Evidence) -> Iterator[Finding]:
    """Rows of a table that are added to the samples of a batch, each to all positions of one."""
    meanings = Meanings(evidence)
    flow = meanings.flow
    for i in flow.primitives({"getitem"}):
        call = flow.calls[i]
        whole = _find_samples(meanings, i) if _is_of_table(call) else None
        if whole is not None:
            count, steps = whole[0], whole[1]
            table = spoken(evidence, str(call.inputs[0].source))
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"the first {count} rows of {table} are added to the {count} samples of "
                    f"{whole}, each to all {steps} positions of one: dim 0 is the batch"
                ),
                fix=f"[:{steps}].transpose(0, 1): a row for each position, which is dim 1",
                source=flow.line(i),
                subject=describe(call),
                kind="by-sample",
            )
            return


def _find_samples(meanings: Meanings, index: int) -> tuple[int, ...] | None:
    """The shape, (N, L, features), of a batch that rows of shape (N, 1, features) are added to."""
    flow = meanings.flow
    made = flow.calls[index].outputs[0].shape
    if len(made) != 3 or made[0] < 2 or made[1] != 1:
        return None
    for j in flow.readers[index]:
        for info in flow.calls[j].inputs if operation(flow.calls[j]) == "add" else ():
            dims = meanings.read(info)
            if len(dims) == 3 and list_roles(dims[0]) == {"batch"} and dims[1]:
                return info.shape
    return None


def find_rows_for_all(flow: Flow) -> Iterator[tuple[int, int]]:
    """The rows of the trace that take one row of a table, whose index is the length of the sequence
    that it is added to, and that length.
    """
    rows = [i for i in flow.primitives({"getitem"}) if _is_of_table(flow.calls[i])]
    seen: set[object] = set()
    for i in rows:
        table = flow.calls[i].inputs[0].source
        indices = {
            read_index(flow.calls[j]) for j in rows if flow.calls[j].inputs[0].source == table
        }
        index = read_index(flow.calls[i])
        if table in seen or index is None or len(indices) > 1:
            continue
        made = flow.calls[i].outputs[0].shape
        for j in flow.passes_on(i):
            if operation(flow.calls[j]) == "add" and _is_spread(flow.calls[j], made, index[1]):
                seen.add(table)
                yield i, index[1]
                break


def _is_of_table(call: ModuleCall) -> bool:
    return bool(call.inputs and call.outputs) and isinstance(call.inputs[0].source, str)


def read_index(call: ModuleCall) -> tuple[int, int] | None:
    """The dim of the table that an index takes away, and that index: the only integer among
    slices.
    """
    given = {
        int(match[1] or 0): value
        for key, value in call.arguments.items()
        if (match := re.fullmatch(r"\[1\](?:\[(\d+)\])?", key))
    }
    numbers = [(dim, v) for dim, v in given.items() if type(v) is int]
    others = [v for v in given.values() if type(v) is not int]
    if len(numbers) != 1 or any(not str(v).startswith("slice(None, None") for v in others):
        return None
    return numbers[0]


def _is_spread(call: ModuleCall, made: tuple[int, ...], size: int) -> bool:
    """Whether the row is added along a dim of this size that it has not."""
    shapes = [info.shape for info in call.inputs]
    whole = next((s for s in shapes if len(s) == 3), None)
    if whole is None or size < 2 or not made or made[-1] != whole[-1]:
        return False
    own = (1,) * (len(whole) - len(made)) + made
    return any(whole[d] == size and own[d] == 1 for d in (0, 1))
