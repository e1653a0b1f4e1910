"""Names the nodes of an autograd graph by the module call that made them: by autograd's sequence numbers, or by the parameters they use."""

import bisect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cnnprobe.graph.modules import calls_of
from cnnprobe.trace import ModuleCall, Trace

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
        self.trace = trace
        self.calls, self._position = calls_of(trace)
        rows = [row for row, call in enumerate(trace.calls) if call.sequence is not None and call.sequence[0] < call.sequence[1]]
        rows.sort(key=lambda row: (_range(trace.calls[row])[0], row))  # a child that starts with its parent stands after it
        self._rows = rows
        self._starts = [_range(trace.calls[row])[0] for row in rows]
        self._makers: dict[int, Maker] = {}

    def maker(self, sequence: int) -> Maker:
        """Who made the node with this number."""
        at = bisect.bisect_right(self._starts, sequence) - 1
        row: int | None = self._rows[at] if at >= 0 else None
        while row is not None:
            if sequence < _range(self.trace.calls[row])[1]:
                return self._makers.get(row) or self._remember(row)
            row = self.trace.calls[row].parent
        return NOBODY

    def _remember(self, row: int) -> Maker:
        call = self.trace.calls[row]
        owner = self.calls[self._position[row]] if row in self._position else None
        inplace = (call.kind.endswith("_") and not call.kind.endswith("__")) or call.kind in _INPLACE
        maker = Maker(module=owner.fqn if owner else None, call=owner.call if owner else 0, source=call.source, inplace=inplace)
        self._makers[row] = maker
        return maker


_INPLACE = frozenset({"torch.Tensor.__setitem__"}) | frozenset(
    f"torch.Tensor.__i{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
)


def _range(call: ModuleCall) -> tuple[int, int]:
    return call.sequence or (0, 0)


def infer(names: Sequence[str], below: Sequence[Sequence[int]], owners: Mapping[int, str]) -> dict[int, Maker]:
    """Makers of the nodes that use a parameter, straight or through a view of it.

    Args:
        names: names of the nodes, those made first standing first.
        below: for each the positions of the nodes whose values it uses.
        owners: fqn of the parameter at each position that is a leaf.
    """
    used: dict[str, int] = {}
    makers: dict[int, Maker] = {}
    through: dict[int, Maker] = {}  # views of a parameter
    for node, sources in enumerate(below):
        maker: Maker | None = None
        for source in sources:
            if source in owners and maker is None:
                fqn = owners[source]
                used[fqn] = used.get(fqn, -1) + 1
                maker = Maker(module=fqn.rpartition(".")[0], call=used[fqn])
                if len(sources) == 1 and is_view(names[node]):
                    through[node] = maker
            elif source in through and maker is None:
                maker = through[source]
        if maker is not None:
            makers[node] = maker
    return makers


def inferred_note(makers: Mapping[int, Any]) -> tuple[str, ...]:
    """What to say of names that were told by parameters."""
    return (_INFERRED,) if makers else ()
