"""Names the nodes of an autograd graph by the module call that made them: by autograd's sequence numbers, or by the parameters they use."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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
        self._first, self._innermost = _innermost(trace)
        self._known: dict[int, Maker] = {-1: NOBODY}
        self._inplace: dict[str, bool] = {}

    def makers(self, numbers: Iterable[int]) -> list[Maker]:
        """Who made the nodes with these numbers."""
        first, innermost, known, remember = self._first, self._innermost, self._known, self._remember
        last = first + len(innermost)
        found: list[Maker] = []
        add = found.append
        for number in numbers:
            if first <= number < last:
                row = innermost[number - first]
                add(known[row] if row in known else remember(row))
            else:
                add(NOBODY)
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


def _innermost(trace: Trace) -> tuple[int, list[int]]:
    """The first number that was given during the trace, and for it and those after it the innermost row: -1 for none."""
    spans = [(made[0], made[1], row) for row, call in enumerate(trace.calls) if (made := call.sequence) is not None and made[0] < made[1]]
    if not spans:
        return 0, []
    first = min(spans)[0]
    rows = [-1] * (max(end for _, end, _ in spans) - first)
    for start, end, row in spans:  # a child stands after its parent, and is written over it
        if end - start == 1:
            rows[start - first] = row
        else:
            rows[start - first : end - first] = [row] * (end - start)
    return first, rows


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
