"""Names the nodes of an autograd graph by the module call that made them: by autograd's sequence
numbers, or by the parameters they use.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnnprobe.graph import Edge
from cnnprobe.graph.modules import list_calls
from cnnprobe.operations import is_writing
from cnnprobe.records.trace import Trace

# Forward functions whose output shares its input's memory, as their nodes are called.
VIEWS = frozenset((
    "Alias", "AsStrided", "Diagonal", "Expand", "Imag", "Narrow", "Permute", "Real", "ReshapeAlias",
    "Select", "Slice", "Split", "SplitWithSizes", "Squeeze", "T", "Transpose", "Unbind", "Unfold",
    "Unsqueeze", "View", "ViewAsComplex", "ViewAsReal",
))  # fmt: skip
_INFERRED = (
    "modules were told by the parameters they own; record the forward pass to name every "
    "operation and its line"
)


Maker = tuple[str | None, int, str, bool]
"""The module call that made a node (fqn and call), the user's line, and whether the function wrote
in place. A bare tuple: there is one a node.
"""

NOBODY: Maker = (None, 0, "", False)


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
        self.calls, self._position = list_calls(trace)
        self._first, self._innermost = _innermost(trace)

    def makers(self, numbers: Iterable[int]) -> list[Maker]:
        """Who made the nodes with these numbers."""
        first, innermost, rows, position = self._first, self._innermost, self._rows, self._position
        last = first + len(innermost)
        owners: list[tuple[str | None, int]] = [
            *[(call.fqn, call.call) for call in self.calls],
            (None, 0),
        ]  # the last: of rows in no module
        inplace = _Inplace()
        found: list[Maker] = []
        add = found.append
        for number in numbers:
            if first <= number < last and (at := innermost[number - first]) >= 0:
                row = rows[at]
                module, call = owners[position[at]]
                add((module, call, row.source, inplace[row.kind]))
            else:
                add(NOBODY)
        return found


class _Inplace(dict[str, bool]):
    """Whether a function writes in place, by its public name; each told once."""

    def __missing__(self, kind: str) -> bool:
        writes = self[kind] = is_writing(kind)
        return writes


def _innermost(trace: Trace) -> tuple[int, list[int]]:
    """The first number that was given during the trace, and for it and those after it the innermost
    row: -1 for none.
    """
    made = [call.sequence for call in trace.calls]
    known = [span for span in made if span is not None and span[0] < span[1]]
    if not known:
        return 0, []
    first = min(known)[0]
    rows = [-1] * (max([span[1] for span in known]) - first)
    for row, span in enumerate(made):  # a child stands after its parent, and is written over it
        if span is not None:
            start, end = span
            if end - start == 1:
                rows[start - first] = row
            elif start < end:
                rows[start - first : end - first] = [row] * (end - start)
    return first, rows


def infer(
    functions: Sequence[Any], edges: Sequence[Edge], owners: Mapping[int, tuple[str, str]]
) -> list[Maker]:
    """Makers of the nodes that use a parameter, straight or through a view of it; nobody of the
    others.

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
            maker = makers[end] = (module, used[fqn], "", False)
            if len(functions[end].next_functions) == 1 and is_view(functions[end].name()):
                through[end] = maker
        elif start in through:
            makers[end] = through[start]
    return makers


def inferred_note(makers: Sequence[Maker]) -> tuple[str, ...]:
    """What to say of names that were told by parameters."""
    return (_INFERRED,) if any(maker is not NOBODY for maker in makers) else ()
