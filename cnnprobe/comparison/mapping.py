"""Which parameter and buffer of one model is which of the other: by the aligned operations that use
them, never by a guess that is not said.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cnnprobe.comparison.structure import Aligned, find_stop
from cnnprobe.records.differences import Operation
from cnnprobe.records.trace import ParameterInfo, Trace

BOOKKEEPING = "num_batches_tracked"  # read only where momentum=None; F.batch_norm takes none


@dataclass(frozen=True, slots=True, kw_only=True)
class NameMapping:
    """Names in the actual model to those in the expected one; why others have no counterpart; what
    was mapped by less than an operation.
    """

    names: Mapping[str, str]
    unmapped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _MappingDraft:
    names: dict[str, str] = field(default_factory=dict)
    unmapped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    said: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))


def map_names(aligned: Aligned) -> NameMapping:
    """The mapping that the aligned operations give."""
    draft = _MappingDraft()
    for a, b in _find_counterparts(aligned, draft):
        for role, name in a.parameters.items():
            if role in b.parameters:
                _enter(draft, name, b.parameters[role])
    _map_rest(aligned, draft)
    return NameMapping(names=draft.names, unmapped=tuple(draft.unmapped), notes=tuple(draft.notes))


def _find_counterparts(
    aligned: Aligned, draft: _MappingDraft
) -> Iterator[tuple[Operation, Operation]]:
    stop = find_stop(aligned)
    for k, a, b in aligned.both():
        if k in aligned.alignment.ambiguous:
            _refuse(draft, a, b)
        elif a.name == b.name and k <= stop:
            yield a, b
    for k in sorted(aligned.alignment.ambiguous):
        pair = aligned.alignment.pairs[k]
        if (pair.actual is None) != (pair.expected is None):
            _refuse(
                draft,
                aligned.actual[pair.actual] if pair.actual is not None else None,
                aligned.expected[pair.expected] if pair.expected is not None else None,
            )
    moved = aligned.alignment.moved
    kernels = [
        repr((aligned.actual[i].name, sorted(aligned.actual[i].shapes.items()))) for i, _ in moved
    ]
    for (i, j), kernel in zip(moved, kernels, strict=True):
        if kernels.count(kernel) == 1:
            yield aligned.actual[i], aligned.expected[j]
        elif aligned.actual[i].parameters:
            _refuse(draft, aligned.actual[i], aligned.expected[j])


def _refuse(draft: _MappingDraft, a: Operation | None, b: Operation | None) -> None:
    ours, theirs = (tuple(op.parameters.values()) if op is not None else () for op in (a, b))
    draft.said[0].update(ours)
    draft.said[1].update(theirs)
    names = " / ".join(", ".join(map(repr, side)) for side in (ours, theirs) if side)
    if names:
        draft.unmapped.append(
            f"ambiguous: {names} are in a run of equal layers that is shorter or ordered "
            "differently in one model"
        )


def _enter(draft: _MappingDraft, ours: str, theirs: str) -> None:
    known = draft.names.get(ours)
    if known is None and ours not in draft.said[0]:
        draft.names[ours] = theirs
    elif known is not None and known != theirs:
        del draft.names[ours]
        draft.said[0].add(ours)
        draft.said[1].update((known, theirs))
        draft.unmapped.append(
            f"ambiguous: {ours!r} is shared, and matches both {known!r} and {theirs!r} of the "
            "expected model"
        )


def _map_rest(aligned: Aligned, draft: _MappingDraft) -> None:
    """What no aligned operation used: by the same name, else by a shape that only one has on either
    side; the rest is said.
    """
    left = (
        _list_left(aligned.traces[0], draft.names, draft.said[0]),
        _list_left(aligned.traces[1], draft.names.values(), draft.said[1]),
    )
    for name in [
        name
        for name in left[0]
        if name in left[1] and _make_sign(left[0][name]) == _make_sign(left[1][name])
    ]:
        draft.names[name] = name
        del left[0][name], left[1][name]
    signs = [[_make_sign(parameter) for parameter in side.values()] for side in left]
    for name, parameter in list(left[0].items()):
        sign = _make_sign(parameter)
        if signs[0].count(sign) == signs[1].count(sign) == 1 and parameter.numel > 1:
            partner = next(theirs for theirs, other in left[1].items() if _make_sign(other) == sign)
            draft.names[name] = partner
            draft.notes.append(
                f"{name!r} was matched with {partner!r} only by role and shape: no operation that "
                "both models ran uses it"
            )
            del left[0][name], left[1][partner]
    for side, which, other in ((0, "actual", "expected"), (1, "expected", "actual")):
        for name in left[side]:
            if name.rpartition(".")[2] == BOOKKEEPING:
                draft.notes.append(
                    f"{name!r} of the {which} model counts batches, and has no counterpart"
                )
            else:
                draft.unmapped.append(
                    f"{name!r} of the {which} model has no counterpart in the {other} one"
                )


def _list_left(trace: Trace, mapped: object, said: set[str]) -> dict[str, ParameterInfo]:
    done = set(mapped) | said  # type: ignore[call-overload]
    return {p.fqn: p for p in trace.parameters if p.fqn not in done}


def _make_sign(parameter: ParameterInfo) -> tuple[str, tuple[int, ...], str]:
    return parameter.kind, parameter.shape, parameter.fqn.rpartition(".")[2]
