"""Names the nodes of an autograd graph by the module call that made them: by autograd's sequence numbers, or by the parameters they use."""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cnnprobe.autograd.finding import UNNUMBERED
from cnnprobe.graph import Edge
from cnnprobe.graph.modules import calls_of
from cnnprobe.trace import Trace

VIEWS = frozenset((
    "Alias", "AsStrided", "Diagonal", "Expand", "Imag", "Narrow", "Permute", "Real", "ReshapeAlias", "Select", "Slice", "Split",
    "SplitWithSizes", "Squeeze", "T", "Transpose", "Unbind", "Unfold", "Unsqueeze", "View", "ViewAsComplex", "ViewAsReal",
))  # fmt: skip  # forward functions whose output shares its input's memory, as their nodes are called
_INFERRED = "modules were told by the parameters they own; record the forward pass to name every operation and its line"


class Maker(NamedTuple):
    """The module call that made a node, and what its row of the trace says."""

    module: str | None = None
    call: int = 0
    source: str = ""
    inplace: bool = False


NOBODY = Maker()


def is_view(name: str) -> bool:
    """Whether nodes of this name stand for an operation that only looks at its input's memory.

    >>> is_view("TBackward0"), is_view("SqueezeBackward1"), is_view("AddBackward0")
    (True, True, False)
    """
    return name.partition("Backward")[0] in VIEWS


class Namer:
    """Looks up the innermost row of a trace during which a sequence number was given."""

    def __init__(self, trace: Trace) -> None:
        self._rows = trace.calls
        self.calls, self._position = calls_of(trace)
        self._starts, self._innermost = _spans(trace)
        self._known: dict[int, Maker] = {-1: NOBODY}
        self._inplace: dict[str, bool] = {}

    def makers(self, numbers: Iterable[int]) -> list[Maker]:
        """Who made the nodes with these numbers."""
        starts = [*self._starts, UNNUMBERED]
        first, last, maker = 0, 0, NOBODY  # the numbers of one maker: most come one after the other
        found = []
        for number in numbers:
            if number >= UNNUMBERED:
                found.append(NOBODY)
                continue
            if not first <= number < last:
                at = bisect.bisect_right(starts, number)
                first, last, row = starts[at - 1], starts[at], self._innermost[at - 1]
                maker = self._known.get(row) or self._remember(row)
            found.append(maker)
        return found

    def _remember(self, row: int) -> Maker:
        call = self._rows[row]
        kind = call.kind
        inplace = self._inplace.get(kind)
        if inplace is None:
            inplace = self._inplace[kind] = (kind.endswith("_") and not kind.endswith("__")) or kind in _INPLACE
        at = self._position[row]
        owner = self.calls[at] if at >= 0 else None
        module, index = (owner.fqn, owner.call) if owner is not None else (None, 0)
        maker = self._known[row] = tuple.__new__(Maker, (module, index, call.source, inplace))
        return maker


def _spans(trace: Trace) -> tuple[list[int], list[int]]:
    """The numbers at which another row becomes the innermost, and which: -1 for none."""
    spans = [(made[0], row, made[1]) for row, call in enumerate(trace.calls) if (made := call.sequence) is not None and made[0] < made[1]]
    spans.sort()  # a child that starts with its parent stands after it
    starts, rows = [-1], [-1]
    running: list[tuple[int, int]] = []  # ends and rows, the innermost last
    for start, row, end in (*spans, (UNNUMBERED, -1, UNNUMBERED)):
        while running and running[-1][0] <= start:
            ended, _ = running.pop()
            while running and running[-1][0] <= ended:
                running.pop()
            starts.append(ended)
            rows.append(running[-1][1] if running else -1)
        running.append((end, row))
        starts.append(start)
        rows.append(row)
    return starts, rows


_INPLACE = frozenset({"torch.Tensor.__setitem__"}) | frozenset(
    f"torch.Tensor.__i{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
)


def infer(functions: Sequence[Any], edges: Sequence[Edge], owners: Mapping[int, tuple[str, str]]) -> list[Maker]:
    """Makers of the nodes that use a parameter, straight or through a view of it; nobody of the others.

    Args:
        functions: the nodes, those made first standing first.
        edges: between their positions, by their ends.
        owners: fqn of the parameter at each position that is one, and of its module.
    """
    used: dict[str, int] = {}
    makers = [NOBODY] * len(functions)
    through: dict[int, Maker] = {}  # views of a parameter
    for start, end, _, _ in edges:
        if makers[end] is not NOBODY:
            continue
        if start in owners:
            fqn, module = owners[start]
            used[fqn] = used.get(fqn, -1) + 1
            maker = makers[end] = Maker(module, used[fqn])
            if len(functions[end].next_functions) == 1 and is_view(functions[end].name()):
                through[end] = maker
        elif start in through:
            makers[end] = through[start]
    return makers


def inferred_note(makers: Sequence[Maker]) -> tuple[str, ...]:
    """What to say of names that were told by parameters."""
    return (_INFERRED,) if any(maker is not NOBODY for maker in makers) else ()
