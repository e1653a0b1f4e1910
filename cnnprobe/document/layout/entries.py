"""The rows of a trace as a tree with sums: every parameter at exactly one row, so that rows add up
to the totals. No recursion.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnprobe.document.layout.ownership import Ownership, assign_owners
from cnnprobe.records.totals import count_made_bytes
from cnnprobe.records.trace import ModuleCall, ModuleInfo, ParameterInfo, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row to be shown. Sums are of the row itself and of all rows below it, over all its
    `copies`.
    """

    name: str  # below its parent's name: "conv1" in "layer1.0"; "torch.flatten", "F.relu", ".view"
    kind: str
    depth: int
    parameters: int
    macs: int | None
    nbytes: int
    is_shared: bool = False  # its parameters are counted at another row
    call: int | None = None  # index in the trace; None where nothing was called
    module: int | None = None  # index in the trace's modules
    # index in the trace's parameters: a parameter that its module uses itself
    parameter: int | None = None
    # "" | "raised here" | "unfinished" | "never called" | "not reached" | "only its parameters are
    # used"
    state: str = ""
    copies: int = 1


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row stands: what it shows, its depth, and the position of its parent."""

    depth: int
    parent: int | None
    call: int | None = None
    module: int | None = None
    parameter: int | None = None


def list_entries(trace: Trace) -> list[Entry]:
    """All rows in the order of the forward pass, each before the rows below it.

    A container's own parameters come first, then its calls, then the modules in it that no call
    reached.
    """
    owned = assign_owners(trace)
    places = list(_list_places(trace, owned))
    has_rows = [False] * len(places)
    for place in places:
        if place.parent is not None:
            has_rows[place.parent] = True
    parameters, macs, nbytes = _sum_rows(trace, owned, places, has_rows)
    labels = _Labels(trace)
    return [
        Entry(
            name=labels.name(place, places),
            kind=labels.kind(place),
            depth=place.depth,
            parameters=parameters[i],
            macs=macs[i],
            nbytes=nbytes[i],
            is_shared=parameters[i] == 0 and owned.is_shared(place.call, place.module),
            call=place.call,
            module=place.module,
            parameter=place.parameter,
            state=_find_state(trace, owned, place),
        )
        for i, place in enumerate(places)
    ]


def _list_places(trace: Trace, owned: Ownership) -> Iterator[_Place]:
    below: dict[int | None, list[int]] = {None: []}
    for i, call in enumerate(trace.calls):
        if not call.recomputed:
            below.setdefault(call.parent, []).append(i)
    stack = [_Place(0, None, module=m) for m in reversed(owned.unreached.get(None, ()))]
    stack += [_locate_call(trace, owned, 0, None, i) for i in reversed(below[None])]
    position = -1
    while stack:
        place = stack.pop()
        position += 1
        yield place
        if place.call is None:
            continue
        depth, calls, modules = (
            place.depth + 1,
            below.get(place.call, ()),
            owned.unreached.get(place.call, ()),
        )
        stack += [_Place(depth, position, module=m) for m in reversed(modules)]
        stack += [_locate_call(trace, owned, depth, position, i) for i in reversed(calls)]
        if calls or modules:
            stack += [
                _Place(depth, position, parameter=p)
                for p in reversed(owned.parameters.get(place.call, ()))
            ]


def _locate_call(
    trace: Trace, owned: Ownership, depth: int, parent: int | None, call: int
) -> _Place:
    fqn = trace.calls[call].fqn
    return _Place(
        depth, parent, call=call, module=None if fqn is None else owned.module_index.get(fqn)
    )


def _sum_rows(
    trace: Trace, owned: Ownership, places: Sequence[_Place], has_rows: Sequence[bool]
) -> tuple[list[int], list[int | None], list[int]]:
    """Parameters, MACs and bytes of each row with those below: one pass from the last row to the
    first.
    """
    parameters, nbytes = [0] * len(places), [0] * len(places)
    macs: list[int | None] = [None] * len(places)
    for i in range(len(places) - 1, -1, -1):
        place = places[i]
        if place.parameter is not None:
            parameters[i] += trace.parameters[place.parameter].numel
        elif place.call is None and place.module is not None:
            parameters[i] += owned.elements_below[place.module]
        elif place.call is not None and not has_rows[i]:
            call = trace.calls[place.call]
            parameters[i] += sum(
                trace.parameters[p].numel for p in owned.parameters.get(place.call, ())
            )
            macs[i] = call.macs if call.completed else None
            nbytes[i] = count_made_bytes(place.call, call)
        if place.parent is not None:
            parameters[place.parent] += parameters[i]
            nbytes[place.parent] += nbytes[i]
            if macs[i] is not None:
                macs[place.parent] = (macs[place.parent] or 0) + (macs[i] or 0)
    return parameters, macs, nbytes


def _find_state(trace: Trace, owned: Ownership, place: _Place) -> str:
    if place.call is not None:
        if trace.failure is not None and trace.failure.call == place.call:
            return "raised here"
        return "" if trace.calls[place.call].completed else "unfinished"
    if place.module is None:
        return ""
    if place.module in owned.borrowed:
        return "only its parameters are used"
    return "never called" if trace.failure is None else "not reached"


class _Labels:
    """What rows are called."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.repeated = {
            call.fqn
            for call in trace.calls
            if call.fqn is not None and call.index > 0 and not call.recomputed
        }

    def name(self, place: _Place, places: Sequence[_Place]) -> str:
        parent = None if place.parent is None else places[place.parent].call
        if place.call is None:
            item: ModuleInfo | ParameterInfo
            item = (
                self.trace.parameters[place.parameter]
                if place.parameter is not None
                else self.trace.modules[place.module or 0]
            )
            return _strip_parent(item.fqn, self._get_fqn_above(parent)) or self.trace.model
        call = self.trace.calls[place.call]
        if call.fqn is None:
            return shorten_function(call.kind)
        name = (
            _strip_parent(call.fqn, self._get_fqn_above(parent)) if call.fqn else self.trace.model
        )
        return f"{name} #{call.index + 1}" if call.fqn in self.repeated else name

    def _get_fqn_above(self, call: int | None) -> str:
        return "" if call is None else self.trace.calls[call].fqn or ""

    def kind(self, place: _Place) -> str:
        if place.parameter is not None:
            return "own parameter"
        if place.call is None:
            return self.trace.modules[place.module or 0].kind
        call: ModuleCall = self.trace.calls[place.call]
        if call.fqn is None:
            return "function"
        return "" if call.fqn == "" and call.kind == self.trace.model else call.kind


def _strip_parent(fqn: str, above: str) -> str:
    return fqn[len(above) + 1 :] if above and fqn.startswith(above + ".") else fqn


def shorten_function(function: str) -> str:
    """A function as one types it.

    >>> shorten_function("torch.nn.functional.relu"), shorten_function("torch.Tensor.view"), shorten_function("torch.flatten")
    ('F.relu', '.view', 'torch.flatten')
    """  # noqa: E501
    for prefix, short in (("torch.nn.functional.", "F."), ("torch.Tensor.", ".")):
        if function.startswith(prefix):
            return short + function.removeprefix(prefix)
    return function
