"""A view where a permute was meant."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.meanings import Meanings
from cnnprobe.diagnosis.evidence.pieces import Dim
from cnnprobe.diagnosis.evidence.questions import (
    batch_size,
    find_module,
    loss_calls,
    spoken,
    takes_time_first,
)
from cnnprobe.diagnosis.evidence.scrambles import find_scrambles
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying

_OF_CLASSES = ("cross_entropy", "nll_loss")


def _net(permuted: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 4)

        def forward(self, x: Any) -> Any:
            x = self.conv(x).relu()
            n, c, h, w = x.shape
            tokens = x.flatten(2).transpose(1, 2) if permuted else x.view(n, h * w, c)
            return self.fc(tokens).mean(dim=1)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """`x.view(n, h * w, c)` of (n, c, h, w)."""
    return _net(permuted=False)


def healthy() -> Mapping[str, Any]:
    """`x.flatten(2).transpose(1, 2)`."""
    return _net(permuted=True)


@rule(
    code="CP316",
    name="reshape-scramble",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("minimum-elsewhere", "batch-leak", "cannot-overfit"),
)
def reshape_scramble(evidence: Evidence) -> Iterator[Finding]:
    """A view or reshape exchanges axes, which only a permute can do.

    Why it matters: view keeps the order in memory; (N, C, HW) viewed as (N, HW, C) mixes channels
    and positions, (N, T, heads * size) viewed as (N, heads, T, size) the heads, (N, C, H, W) viewed
    as (W, N, C * H) for an LSTM mixes samples, and (N, C, H, W) viewed as (N * H * W, C) gives the
    loss scores of other places than the labels are of. (N, A * K, H, W) viewed as (N, A, H, W, K),
    the head of a detector, puts K neighbouring positions in the place of the K values of a box;
    (N, C * 4, H, W) viewed as (N, C, 2 * H, 2 * W) is no pixel shuffle.
    What to do: permute or transpose first.
    Known exceptions: reshapes that only merge or split neighbouring axes; axes of equal size cannot
    be told apart. Where the first axis takes part, only a plain exchange of whole axes counts: what
    is merged with the batch and split again has these sizes by chance.
    Source: torch.Tensor.view, "The returned tensor shares the same data".
    """
    flow = Flow(evidence.trace)
    places: dict[str | None, list[int]] = {}
    for i in list_scrambled(evidence, flow):
        places.setdefault(flow.owner(i), []).append(i)
    for place, rows in places.items():
        call = flow.calls[rows[0]]
        others = format_counted(len(rows) - 1, "other view")
        so = "" if len(rows) == 1 else f"; so {'does' if len(rows) == 2 else 'do'} {others} there"
        yield Finding(
            module=place,
            message=(
                f"{describe(call)} turns {call.inputs[0].shape} into {call.outputs[0].shape}: the "
                f"axes change places, but the values stay in their order{so}"
            ),
            fix=f"permute or transpose first, then reshape, in {spoken(evidence, place)}",
            source=call.source,
            subject=describe(call),
        )
    yield from _find_mixed_dims(evidence, {i for rows in places.values() for i in rows})
    yield from _find_mixed_scores(evidence)
    yield from _find_other_order(evidence)


def list_scrambled(evidence: Evidence, flow: Flow) -> list[int]:
    """The rows of the model's views that exchange axes."""
    found = []
    for i in flow.primitives({"view", "reshape"}):
        call = flow.calls[i]
        if flow.owner(i) is None or not call.inputs or not call.outputs:
            continue
        before, after = call.inputs[0].shape, call.outputs[0].shape
        is_split = split_of_heads(before, after) is not None and _is_attended(flow, i)
        if is_split or is_exchange(before, after) or _moves_batch(evidence, flow, i):
            found.append(i)
    return found


def _is_attended(flow: Flow, index: int) -> bool:
    """Whether a product reads it, as the scores of an attention do."""
    readers = [operation(flow.calls[j]) for j in flow.passes_on(index)]
    return any(kind in ("matmul", "einsum", "attention") for kind in readers)


def _moves_batch(evidence: Evidence, flow: Flow, index: int) -> bool:
    """Whether (N, ...) becomes (T, N, features) for a layer that takes time first."""
    call, n = flow.calls[index], batch_size(evidence)
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if n is None or n < 2 or len(after) != 3 or before[0] != n or after[1] != n or after[0] == n:
        return False
    readers = [find_module(evidence, flow.calls[j].fqn) for j in flow.passes_on(index)]
    return any(info is not None and takes_time_first(info) for info in readers)


def _find_mixed_dims(evidence: Evidence, told: set[int]) -> Iterator[Finding]:
    """What the meaning of the dims shows, of rows that are not told yet; the same line once."""
    meanings = Meanings(evidence)
    flow, lines = meanings.flow, {meanings.flow.line(i) for i in told} - {""}
    for found in find_scrambles(meanings):
        call, line = flow.calls[found.index], flow.line(found.index)
        if line in lines or (found.kind == "slides" and told & flow.before(found.index)):
            continue
        lines |= {line} - {""}
        told.add(found.index)
        yield Finding(
            module=flow.owner(found.index),
            severity=Severity.WARNING,
            message=found.message,
            fix=found.fix,
            source=line,
            subject=describe(call),
            kind=found.kind,
        )


def _find_mixed_scores(evidence: Evidence) -> Iterator[Finding]:
    """(N, C, positions) reshaped to (N * positions, C) for labels of (N, positions)."""
    for loss in loss_calls(evidence):
        row = loss.flow.producer(loss.prediction)
        if row is None or loss.target is None or loss.operation not in _OF_CLASSES:
            continue
        call = loss.flow.calls[row]
        if operation(call) not in ("view", "reshape") or not call.inputs:
            continue
        before, after = call.inputs[0].shape, loss.prediction.shape
        places = (before[0], *before[2:])
        if (
            len(before) > 2
            and after == (math.prod(places), before[1])
            and before[-1] != before[1] > 1
            and loss.flow.outer(loss.target).shape == places
        ):
            yield Finding(
                module=loss.flow.owner(row),
                message=(
                    f"{describe(call)} turns {before} into {after}: a row of it holds {before[1]} "
                    f"positions of one class, not the {before[1]} classes of a position"
                ),
                fix=(
                    "give the loss the output as it is, or permute the classes to the end before "
                    "the reshape"
                ),
                source=call.source,
                subject=describe(call),
            )


def _find_other_order(evidence: Evidence) -> Iterator[Finding]:
    """Scores of (L, N, C) and labels of (N, L), both flattened: in one, the batch comes first."""
    meanings = Meanings(evidence)
    for loss in loss_calls(evidence):
        if loss.target is None or not loss.prediction.shape or not loss.target.shape:
            continue
        both = [meanings.read(info) for info in (loss.prediction, loss.target)]
        places = [_find_batch(dims[0]) for dims in both if dims]
        if len(places) == 2 and None not in places and (places[0] == 0) != (places[1] == 0):
            first, second = ("output", "targets") if places[0] == 0 else ("targets", "output")
            yield Finding(
                module=None,
                severity=Severity.WARNING,
                message=(
                    f"{describe(loss.call)} gets output and targets in different orders: dim 0 of "
                    f"the {first} goes through sample by sample, that of the {second} position by "
                    "position"
                ),
                fix=f"transpose(0, 1) of the {second} before it is flattened",
                source=loss.flow.line(loss.index),
                kind="order",
            )
            return


def _find_batch(dim: Dim) -> int | None:
    """Which piece of a dim of several is the batch; None where it is one, or has none."""
    roles = [piece.axis.role for piece in dim]
    return roles.index("batch") if len(roles) > 1 and "batch" in roles else None


def split_of_heads(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, int] | None:
    """The number of heads and their size, where (N, T, heads * size) becomes (N, heads, T, size).

    >>> split_of_heads((8, 10, 16), (8, 4, 10, 4)), split_of_heads((8, 10, 16), (8, 10, 4, 4))
    ((4, 4), None)
    """
    if len(before) != 3 or len(after) != 4 or after[0] != before[0] or after[2] != before[1]:
        return None
    heads, size = after[1], after[3]
    is_other = heads not in (1, before[1]) and before[1] > 1 and heads * size == before[2]
    return (heads, size) if is_other else None


def is_exchange(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether a reshape's result has the sizes of the input's axes, or of products of them, in
    another order.

    >>> is_exchange((8, 6, 64), (8, 64, 6)), is_exchange((8, 6, 8, 8), (8, 64, 6)), is_exchange((8, 6, 8, 8), (8, 6, 64)), is_exchange((8, 12), (8, 3, 4))
    (True, True, False, False)
    >>> is_exchange((5, 8, 6), (8, 5, 6)), is_exchange((4, 96, 16, 4), (1536, 4, 2, 2))
    (True, False)
    """  # noqa: E501
    for k, (left, right) in enumerate(
        _blocks([n for n in before if n != 1], [n for n in after if n != 1])
    ):
        has_batch = k == 0 and before[0] != 1
        if (
            len(left) > 1
            and len(right) > 1
            and _is_permutation(left, right)
            and (not has_batch or sorted(left) == sorted(right))
        ):
            return True
    return False


def _blocks(left: list[int], right: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Runs of axes on both sides with equal products, as short as possible."""
    a: list[int] = []
    b: list[int] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a.append(left[i])
        b.append(right[j])
        i, j = i + 1, j + 1
        while math.prod(a) != math.prod(b):
            if math.prod(a) < math.prod(b):
                if i >= len(left):
                    return
                a.append(left[i])
                i += 1
            else:
                if j >= len(right):
                    return
                b.append(right[j])
                j += 1
        yield a, b
        a, b = [], []


def _is_permutation(left: list[int], right: list[int]) -> bool:
    """Whether each axis on the right is a product of axes on the left, each of which is used
    once.
    """
    if not right:
        return not left
    size = right[0]
    for mask in range(1, 2 ** len(left)):
        chosen = [n for k, n in enumerate(left) if mask >> k & 1]
        if math.prod(chosen) == size and _is_permutation(
            [n for k, n in enumerate(left) if not mask >> k & 1], right[1:]
        ):
            return True
    return False
