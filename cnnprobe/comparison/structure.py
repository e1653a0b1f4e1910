"""What differs in the structure of two aligned forward passes: operations and their data flow,
shapes, parameter counts, hyper-parameters.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnnprobe.comparison.alignment import Alignment
from cnnprobe.operations import find_name
from cnnprobe.records.differences import Difference, Operation, describe_place
from cnnprobe.records.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """Two forward passes, their operations, and which stands for which."""

    traces: tuple[Trace, Trace]
    actual: tuple[Operation, ...]
    expected: tuple[Operation, ...]
    alignment: Alignment

    def both(self) -> Iterator[tuple[int, Operation, Operation]]:
        """Each position at which both models have an operation."""
        for k, pair in enumerate(self.alignment.pairs):
            if pair.actual is not None and pair.expected is not None:
                yield k, self.actual[pair.actual], self.expected[pair.expected]


def find_structural_differences(aligned: Aligned) -> list[Difference]:
    """All differences of the levels "operations", "shapes", "parameters" and "hyperparameters", in
    execution order.
    """
    found = [
        *_compare_operations(aligned),
        *_compare_data_flow(aligned),
        *_compare_shapes(aligned),
        *_compare_hyperparameters(aligned),
        *_compare_parameter_counts(aligned),
    ]
    return sorted(found, key=lambda difference: difference.position)


def find_stop(aligned: Aligned) -> int:
    """The position up to which both models were observed: that of an operation that raised, else
    the end.
    """
    for k, pair in enumerate(aligned.alignment.pairs):
        for index, operations in ((pair.actual, aligned.actual), (pair.expected, aligned.expected)):
            if index is not None and not operations[index].completed:
                return k
    if any(trace.failure is not None for trace in aligned.traces):
        ends = [
            k
            for k, pair in enumerate(aligned.alignment.pairs)
            if pair.actual is not None and pair.expected is not None
        ]
        return ends[-1] + 1 if ends else 0
    return len(aligned.alignment.pairs)


# -- operations ------------------------------------------------------------------------------------


def _compare_operations(aligned: Aligned) -> Iterator[Difference]:
    stop = find_stop(aligned)
    moved = dict(aligned.alignment.moved)
    homes = {j: i for i, j in moved.items()}
    for k, pair in enumerate(aligned.alignment.pairs[: stop + 1]):
        a = aligned.actual[pair.actual] if pair.actual is not None else None
        b = aligned.expected[pair.expected] if pair.expected is not None else None
        if a is not None and b is not None:
            if a.name != b.name:
                yield _make_difference(k, a, b, f"{_choose_word(a)} in place of {_choose_word(b)}")
        elif a is not None and pair.actual is not None and a.name != "identity":
            if pair.actual in moved:
                yield _make_difference(
                    k,
                    a,
                    aligned.expected[moved[pair.actual]],
                    _describe_moved(aligned, pair.actual, moved[pair.actual]),
                )
            else:
                yield _make_difference(
                    k,
                    a,
                    None,
                    (
                        f"{_choose_word(a)} has no counterpart: the expected model does not have "
                        f"it{_note_eval(a)}"
                    ),
                )
        elif (
            b is not None
            and pair.expected is not None
            and b.name != "identity"
            and pair.expected not in homes
        ):
            yield _make_difference(k, None, b, f"{_choose_word(b)} is missing{_note_eval(b)}")
    for side, trace in enumerate(aligned.traces):
        if trace.failure is not None:
            yield _describe_raised(aligned, side, min(stop, len(aligned.alignment.pairs)))


def _make_difference(
    position: int, a: Operation | None, b: Operation | None, message: str
) -> Difference:
    return Difference(
        level="operations",
        position=position,
        actual=describe_place(a) if a is not None else "",
        expected=describe_place(b) if b is not None else "",
        message=message,
    )


def _choose_word(operation: Operation) -> str:
    return operation.kind.rsplit(".", maxsplit=1)[-1] if operation.name != "flatten" else "flatten"


def _note_eval(operation: Operation) -> str:
    is_idle = operation.name.startswith("dropout") and not operation.config.get("training")
    return " (no effect in eval mode, but active in training)" if is_idle else ""


def _describe_moved(aligned: Aligned, i: int, j: int) -> str:
    return (
        f"{_choose_word(aligned.actual[i])} comes {_find_neighbour(aligned.actual, i)} instead of "
        f"{_find_neighbour(aligned.expected, j)}"
    )


def _find_neighbour(operations: Sequence[Operation], k: int) -> str:
    return f"after {describe_place(operations[k - 1])}" if k > 0 else "at the beginning"


def _describe_raised(aligned: Aligned, side: int, position: int) -> Difference:
    failure = aligned.traces[side].failure
    operations = (aligned.actual, aligned.expected)[side]
    last = next((describe_place(op) for op in operations if not op.completed), "")
    first_line = failure.message.split("\n", maxsplit=1)[0] if failure is not None else ""
    kind = failure.kind if failure is not None else ""
    left = len(aligned.alignment.pairs) - position - 1
    further = f"; {left} further operations could not be compared" if left > 0 else ""
    which = ("actual", "expected")[side]
    return Difference(
        level="operations",
        position=position,
        actual=last if side == 0 else "",
        expected=last if side == 1 else "",
        message=f"the forward pass of the {which} model raised {kind}: {first_line}{further}",
    )


# -- data flow -------------------------------------------------------------------------------------


def _compare_data_flow(aligned: Aligned) -> Iterator[Difference]:
    pairs = aligned.alignment.pairs
    to_expected = {
        p.actual: p.expected for p in pairs if p.actual is not None and p.expected is not None
    }
    known = set(to_expected.values())
    stop = find_stop(aligned)
    for k, a, b in aligned.both():
        if k > stop:
            return
        ours = [_find_origin(aligned.actual, s, to_expected) for s in a.sources]
        theirs = [_find_origin(aligned.expected, s, known) for s in b.sources]
        mapped = [to_expected[s] if s is not None else None for s in ours]
        if (
            a.name != b.name
            or mapped == theirs
            or (
                _is_commutative(a)
                and sorted(mapped, key=_order_by_position) == sorted(theirs, key=_order_by_position)
            )
        ):
            continue
        read, wanted = _list_reads(aligned.actual, ours), _list_reads(aligned.expected, theirs)
        yield Difference(
            level="operations",
            position=k,
            actual=describe_place(a),
            expected=describe_place(b),
            message=f"reads {read} instead of {wanted}",
        )


def _order_by_position(index: int | None) -> int:
    return -1 if index is None else index


def _find_origin(
    operations: Sequence[Operation], index: int | None, known: "Mapping[int, int] | set[int]"
) -> int | None:
    """The nearest operation before with a counterpart that is no identity."""
    while index is not None and (index not in known or operations[index].name == "identity"):
        sources = operations[index].sources
        index = sources[0] if sources else None
    return index


def _list_reads(operations: Sequence[Operation], sources: Sequence[int | None]) -> str:
    return (
        " and ".join(
            "the model's input" if s is None else describe_place(operations[s]) for s in sources
        )
        or "nothing"
    )


def _is_commutative(operation: Operation) -> bool:
    info = find_name(operation.name)
    return info is not None and "commutes" in info.traits


# -- shapes, hyper-parameters ----------------------------------------------------------------------


def _compare_shapes(aligned: Aligned) -> Iterator[Difference]:
    for k, a, b in aligned.both():
        if a.made != b.made and a.completed and b.completed:
            message = f"outputs {_list_shapes(a.made)} instead of {_list_shapes(b.made)}"
            yield Difference(
                level="shapes",
                position=k,
                actual=describe_place(a),
                expected=describe_place(b),
                message=message,
            )


def _list_shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "nothing"


def _compare_hyperparameters(aligned: Aligned) -> Iterator[Difference]:
    for k, a, b in aligned.both():
        if a.name != b.name:
            continue
        ours, theirs = {**a.config, **read_sizes(a)}, {**b.config, **read_sizes(b)}
        apart = [
            key
            for key in (*theirs, *(key for key in ours if key not in theirs))
            if ours.get(key, _ABSENT) != theirs.get(key, _ABSENT)
        ]
        if apart:
            message = ", ".join(
                f"{key} {ours.get(key, 'not given')} instead of {theirs.get(key, 'not given')}"
                for key in apart
            )
            yield Difference(
                level="hyperparameters",
                position=k,
                actual=describe_place(a),
                expected=describe_place(b),
                message=message,
            )


_ABSENT = object()


def read_sizes(operation: Operation) -> dict[str, object]:
    """What a layer's constructor takes and its weights show: channels or features, and whether
    there is a bias.
    """
    weight = operation.shapes.get("weight", ())
    found: dict[str, object] = {}
    groups = operation.config.get("groups", 1)
    if operation.name.startswith("conv") and len(weight) > 2 and isinstance(groups, int):
        first, second = (
            (weight[0], weight[1] * groups)
            if "transpose" not in operation.name
            else (weight[1] * groups, weight[0])
        )
        found = {"in_channels": second, "out_channels": first}
    elif operation.name == "linear" and len(weight) == 2:
        found = {"in_features": weight[1], "out_features": weight[0]}
    elif operation.name == "embedding" and len(weight) == 2:
        found = {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    elif operation.name.endswith("norm"):
        found = {"features": weight, "affine": bool(weight)} if weight else {"affine": False}
    if operation.name.startswith("conv") or operation.name == "linear":
        found["bias"] = "bias" in operation.shapes
    return found


# -- parameter counts ------------------------------------------------------------------------------


def count_parameters(trace: Trace) -> int:
    """All distinct parameters, buffers not counted."""
    return sum(parameter.numel for parameter in trace.parameters if parameter.kind == "parameter")


def _compare_parameter_counts(aligned: Aligned) -> Iterator[Difference]:
    """Layer by layer; a layer that is used twice counts once. Then what no operation used."""
    own = [{p.fqn for p in trace.parameters if p.kind == "parameter"} for trace in aligned.traces]
    seen: tuple[set[str], set[str]] = (set(), set())
    for k, pair in enumerate(aligned.alignment.pairs):
        a = aligned.actual[pair.actual] if pair.actual is not None else None
        b = aligned.expected[pair.expected] if pair.expected is not None else None
        ours, theirs = _count_own(a, own[0], seen[0]), _count_own(b, own[1], seen[1])
        if ours != theirs and k <= find_stop(aligned):
            message = f"{ours:,} parameters instead of {theirs:,}{_describe_which(a, b)}"
            yield Difference(
                level="parameters",
                position=k,
                actual=describe_place(a) if a is not None else "",
                expected=describe_place(b) if b is not None else "",
                message=message,
            )
        elif ours != theirs:  # not reached: registered or not is seen below
            seen[0].difference_update(a.parameters.values() if a is not None else ())
            seen[1].difference_update(b.parameters.values() if b is not None else ())
    left = [
        sorted(p.numel for p in trace.parameters if p.fqn in own[s] - seen[s])
        for s, trace in enumerate(aligned.traces)
    ]
    if left[0] != left[1]:
        message = f"{sum(left[0]):,} parameters that no operation used instead of {sum(left[1]):,}"
        yield Difference(
            level="parameters",
            position=len(aligned.alignment.pairs),
            actual="",
            expected="",
            message=message,
        )


def _count_own(operation: Operation | None, own: set[str], seen: set[str]) -> int:
    total = 0
    for role, fqn in operation.parameters.items() if operation is not None else ():
        if fqn in own and fqn not in seen:
            seen.add(fqn)
            total += math.prod(operation.shapes[role]) if operation is not None else 0
    return total


def _describe_which(a: Operation | None, b: Operation | None) -> str:
    if a is None or b is None or a.name != b.name:
        return ""
    apart = [
        r
        for r in (*b.shapes, *(r for r in a.shapes if r not in b.shapes))
        if a.shapes.get(r) != b.shapes.get(r)
    ]
    return (
        ": "
        + ", ".join(
            f"{role} {a.shapes.get(role, 'none')} instead of {b.shapes.get(role, 'none')}"
            for role in apart
        )
        if apart
        else ""
    )
