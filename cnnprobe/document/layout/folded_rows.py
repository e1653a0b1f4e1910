"""Repeated identical rows as one: `Bottleneck x3`. A fold carries the sums of all its copies, so
rows still add up.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cnnprobe.document.layout.entries import Entry
from cnnprobe.records.trace import ModuleCall, TensorInfo, Trace

_FEWEST_BLOCKS = 2  # copies of a row that has rows below it
_FEWEST_LAYERS = 3  # copies of a single row; two are shown, as a fold would hide more than it saves
_REPEATED = re.compile(r" #\d+$")
_NEVER_FOLDED = ("raised here", "unfinished")


def fold_rows(trace: Trace, rows: Sequence[Entry]) -> list[Entry]:
    """The rows with each run of identical neighbours as its first, whose `copies`, sums and name
    stand for all of them.

    Identical: same kind, configuration, shapes, dtypes, parameters and costs, and the same rows
    below in the same order; a row whose values are not finite is never identical to one whose
    values are.
    """
    children: list[list[int]] = [[] for _ in rows]
    tops: list[int] = []
    above: list[int] = []  # positions of the rows that the current one stands in
    for i, row in enumerate(rows):
        del above[row.depth :]
        (children[above[-1]] if above else tops).append(i)
        above.append(i)
    alike = _number_classes(trace, rows, children)
    folded: list[Entry] = []
    stack = [
        (i, name, copies, 1)
        for i, name, copies in reversed(list(_find_runs(rows, tops, children, alike)))
    ]
    while stack:
        i, name, copies, outer = stack.pop()
        every = copies * outer
        folded.append(_multiply(rows[i], name, every))
        stack += [
            (j, below, n, every)
            for j, below, n in reversed(list(_find_runs(rows, children[i], children, alike)))
        ]
    return folded


def _find_runs(
    rows: Sequence[Entry],
    siblings: Sequence[int],
    children: Sequence[Sequence[int]],
    alike: Sequence[int],
) -> Iterator[tuple[int, str, int]]:
    """Each run of identical neighbours: its first, its name and its length; runs too short to fold
    come one by one.
    """
    start = 0
    while start < len(siblings):
        end = start + 1
        while end < len(siblings) and alike[siblings[end]] == alike[siblings[start]]:
            end += 1
        first, last, length = siblings[start], siblings[end - 1], end - start
        if length >= (_FEWEST_BLOCKS if children[first] else _FEWEST_LAYERS):
            yield first, join_names(rows[first].name, rows[last].name), length
        else:
            yield from ((i, rows[i].name, 1) for i in siblings[start:end])
        start = end


def join_names(first: str, last: str) -> str:
    """The names from the first to the last of a run.

    >>> join_names("encoder_layer_0", "encoder_layer_11"), join_names("1", "2"), join_names("conv #2", "conv #5"), join_names("F.relu", "F.relu")
    ('encoder_layer_0..11', '1..2', 'conv #2..5', 'F.relu')
    """  # noqa: E501
    if first == last:
        return first
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    while same and first[same - 1].isdigit():  # "layer_10..11", not "layer_10..1"
        same -= 1
    tail = last[same:]
    return f"{first}..{tail if tail.isdigit() and first[same:].isdigit() else last}"


def _multiply(row: Entry, name: str, copies: int) -> Entry:
    if copies == 1 and name == row.name:
        return row
    macs = None if row.macs is None else row.macs * copies
    return replace(
        row,
        name=name,
        copies=copies,
        parameters=row.parameters * copies,
        macs=macs,
        nbytes=row.nbytes * copies,
    )


def _number_classes(
    trace: Trace, rows: Sequence[Entry], children: Sequence[Sequence[int]]
) -> list[int]:
    """A number for each row, equal for identical rows: found from the last row to the first, so
    rows below come before their parent.
    """
    known: dict[object, int] = {}
    signatures = _Signatures(trace)
    numbers = [0] * len(rows)
    for i in range(len(rows) - 1, -1, -1):
        row = rows[i]
        if row.state in _NEVER_FOLDED:
            numbers[i] = -1 - i
            continue
        below = tuple((_REPEATED.sub("", rows[j].name), numbers[j]) for j in children[i])
        key = (
            signatures.compute(row),
            row.parameters,
            row.is_shared,
            row.macs,
            row.nbytes,
            row.state,
            below,
        )
        numbers[i] = known.setdefault(key, len(known))
    return numbers


class _Signatures:
    """What a row is by itself, without the rows below it and without its name."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.tensors = {
            name: (p.shape, p.dtype, p.trainable)
            for p in trace.parameters
            for name in (p.fqn, *p.aliases)
        }
        self.modules: dict[int, object] = {}

    def compute(self, row: Entry) -> object:
        if row.parameter is not None:
            return self.tensors[self.trace.parameters[row.parameter].fqn]
        call = None if row.call is None else _describe_call(self.trace.calls[row.call])
        function = row.name if row.module is None else ""
        return (
            row.kind,
            function,
            call,
            None if row.module is None else self._describe_module(row.module),
        )

    def _describe_module(self, index: int) -> object:
        if index not in self.modules:
            module = self.trace.modules[index]
            own = tuple(
                (name.rpartition(".")[2], self.tensors.get(name)) for name in module.parameters
            )
            self.modules[index] = (
                repr(sorted(module.config.items(), key=lambda item: item[0])),
                module.training,
                own,
            )
        return self.modules[index]


def _describe_call(call: ModuleCall) -> object:
    return (
        tuple(map(_describe_tensor, call.inputs)),
        tuple(map(_describe_tensor, call.outputs)),
        call.returned,
    )


def _describe_tensor(tensor: TensorInfo) -> object:
    odd = bool(tensor.stats and (tensor.stats.get("nan") or tensor.stats.get("inf")))
    return tensor.path, tensor.shape, tensor.dtype, tensor.device, odd
