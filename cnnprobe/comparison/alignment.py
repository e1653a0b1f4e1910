"""Which operation of one model stands for which of another: the cheapest alignment of their
sequences, and where it is one of several.

The operations are aligned in the order in which they ran. Where that leaves something over, they
are aligned once more in an order that follows the data flow alone, so that a shortcut computed
before or after its main branch makes no difference.
"""

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cnnprobe.operations import find_name
from cnnprobe.records.differences import Operation, Pair

# Costs: one operation left over costs 1; whatever is dearer than leaving both over (2) is no pair.
_GAP, _GAP_IDENTITY = 1.0, 0.05
_CONFIGURED_APART, _PARAMETERS_APART, _SHAPES_APART = 0.4, 0.3, 0.2
_SAME_FAMILY, _SAME_SHAPES_ONLY = 0.9, 1.5
_NEVER = 1e9
# of the table of costs, some 4 seconds; longer sequences are first cut at what is equal in both
_MOST_CELLS = 4_000_000

Operations = Sequence[Operation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Pairs in execution order; `ambiguous` are those positions in `pairs` that could as well have
    been others; `moved` are actual -> expected.
    """

    pairs: tuple[Pair, ...]
    ambiguous: frozenset[int] = frozenset()
    moved: tuple[tuple[int, int], ...] = ()


def align(actual: Operations, expected: Operations) -> Alignment:
    """The alignment of two sequences of operations that leaves least over."""
    pairs = _find_pairs(actual, expected, range(len(actual)), range(len(expected)))
    cost = _sum_cost(pairs, actual, expected)
    if cost > 0 and any(len(op.sources) > 1 for op in (*actual, *expected)):
        flowing = _find_pairs(actual, expected, _sort_by_flow(actual), _sort_by_flow(expected))
        if _sum_cost(flowing, actual, expected) < cost:
            pairs = _sort_in_execution_order(flowing)
    pairs, ambiguous = _settle_gaps(pairs, actual, expected)
    return Alignment(
        pairs=tuple(Pair(actual=i, expected=j) for i, j in pairs),
        ambiguous=ambiguous,
        moved=_find_moved(pairs, actual, expected),
    )


_Pairs = list[tuple[int | None, int | None]]


def compute_pair_cost(a: Operation, b: Operation) -> float:
    """How ill two operations stand for each other: 0 for the same with the same configuration and
    shapes.
    """
    if a.name == b.name:
        return (
            _CONFIGURED_APART * (a.config != b.config)
            + _PARAMETERS_APART
            * (
                a.shapes.get("weight") != b.shapes.get("weight")
                or ("bias" in a.shapes) != ("bias" in b.shapes)
            )
            + _SHAPES_APART * (a.made != b.made)
        )
    if "identity" in (a.name, b.name):
        return _NEVER
    if _find_family(a) == _find_family(b):
        return _SAME_FAMILY + _SHAPES_APART * (a.made != b.made)
    if a.made == b.made and a.given == b.given and not a.parameters and not b.parameters:
        return _SAME_SHAPES_ONLY
    return _NEVER


def compute_gap_cost(operation: Operation) -> float:
    """What it costs to leave an operation without a counterpart."""
    return _GAP_IDENTITY if operation.name == "identity" else _GAP


def _sum_cost(pairs: _Pairs, actual: Operations, expected: Operations) -> float:
    total = 0.0
    for i, j in pairs:
        if i is not None and j is not None:
            total += compute_pair_cost(actual[i], expected[j])
        else:
            total += compute_gap_cost(actual[i] if i is not None else expected[j])  # type: ignore[index]
    return total


# -- the cheapest alignment ------------------------------------------------------------------------


def _find_pairs(
    actual: Operations, expected: Operations, left: Sequence[int], right: Sequence[int]
) -> _Pairs:
    """The cheapest alignment of two orders; what is equal at both ends needs no table."""
    start = 0
    while (
        start < min(len(left), len(right))
        and compute_pair_cost(actual[left[start]], expected[right[start]]) == 0
    ):
        start += 1
    stop = 0
    while (
        stop < min(len(left), len(right)) - start
        and compute_pair_cost(
            actual[left[len(left) - 1 - stop]], expected[right[len(right) - 1 - stop]]
        )
        == 0
    ):
        stop += 1
    head = list(zip(left[:start], right[:start], strict=True))
    tail = list(zip(left[len(left) - stop :], right[len(right) - stop :], strict=True))
    middle = _align_middle(
        actual, expected, left[start : len(left) - stop], right[start : len(right) - stop]
    )
    return [*head, *middle, *tail]


def _align_middle(
    actual: Operations, expected: Operations, left: Sequence[int], right: Sequence[int]
) -> _Pairs:
    if len(left) * len(right) <= _MOST_CELLS:
        return _fill_table(actual, expected, left, right)
    ours, theirs = (
        [_make_signature(actual[i]) for i in left],
        [_make_signature(expected[j]) for j in right],
    )
    found: _Pairs = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(
        None, ours, theirs, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            found += zip(left[i1:i2], right[j1:j2], strict=True)
        elif (i2 - i1) * (j2 - j1) <= _MOST_CELLS:
            found += _fill_table(actual, expected, left[i1:i2], right[j1:j2])
        else:
            found += [*((i, None) for i in left[i1:i2]), *((None, j) for j in right[j1:j2])]
    return found


def _fill_table(
    actual: Operations, expected: Operations, left: Sequence[int], right: Sequence[int]
) -> _Pairs:
    """Needleman and Wunsch 1970: costs of the best alignments of all suffixes, then one way through
    them; pairs before gaps.
    """
    n, m = len(left), len(right)
    gaps_left = [compute_gap_cost(actual[i]) for i in left]
    gaps_right = [compute_gap_cost(expected[j]) for j in right]
    costs: dict[tuple[str, str], float] = {}
    signs = (
        [_make_signature(actual[i]) for i in left],
        [_make_signature(expected[j]) for j in right],
    )

    def matched(p: int, q: int) -> float:
        key = (signs[0][p], signs[1][q])
        if key not in costs:
            costs[key] = compute_pair_cost(actual[left[p]], expected[right[q]])
        return costs[key]

    best = [[0.0] * (m + 1) for _ in range(n + 1)]
    for q in reversed(range(m)):
        best[n][q] = best[n][q + 1] + gaps_right[q]
    for p in reversed(range(n)):
        row, below = best[p], best[p + 1]
        row[m] = below[m] + gaps_left[p]
        for q in reversed(range(m)):
            row[q] = min(
                below[q + 1] + matched(p, q), below[q] + gaps_left[p], row[q + 1] + gaps_right[q]
            )
    return [
        (None if p is None else left[p], None if q is None else right[q])
        for p, q in _walk_table(best, gaps_left, matched)
    ]


def _walk_table(
    best: Sequence[Sequence[float]],
    gaps_left: Sequence[float],
    matched: Callable[[int, int], float],
) -> _Pairs:
    """One way through the costs of suffixes: positions that stand beside each other."""
    n, m = len(best) - 1, len(best[0]) - 1
    found: _Pairs = []
    p = q = 0
    while p < n or q < m:
        if p < n and q < m and best[p][q] == best[p + 1][q + 1] + matched(p, q):
            found.append((p, q))
            p, q = p + 1, q + 1
        elif p < n and best[p][q] == best[p + 1][q] + gaps_left[p]:
            found.append((p, None))
            p += 1
        else:
            found.append((None, q))
            q += 1
    return found


def _make_signature(operation: Operation) -> str:
    """All that `compute_pair_cost` looks at."""
    shapes = operation.shapes
    return repr(
        (
            operation.name,
            sorted(operation.config.items(), key=str),
            shapes.get("weight"),
            "bias" in shapes,
            operation.made,
            operation.given,
        )
    )


# -- an order that only the data flow decides ------------------------------------------------------


def _sort_by_flow(operations: Operations) -> list[int]:
    """Each operation after what it reads, longer branches first, whatever order they ran in; then
    what nothing reads.
    """
    length = [1] * len(operations)
    sign = [""] * len(operations)
    for k, operation in enumerate(operations):
        known = [s for s in operation.sources if s is not None and s < k]
        length[k] = 1 + max((length[s] for s in known), default=0)
        below = [sign[s] for s in known]
        if _is_commutative(operation):
            below.sort()
        sign[k] = hashlib.blake2b(
            "|".join((_make_signature(operation), *below)).encode(), digest_size=8
        ).hexdigest()
    order: list[int] = []
    done: set[int] = set()
    read = {s for operation in operations for s in operation.sources}
    for root in [k for k in range(len(operations)) if k not in read]:
        stack = [(root, False)]
        while stack:
            k, ready = stack.pop()
            if k in done:
                continue
            if ready:
                done.add(k)
                order.append(k)
                continue
            stack.append((k, True))
            known = [s for s in operations[k].sources if s is not None and s < k]
            if _is_commutative(operations[k]):
                known.sort(key=lambda s: (-length[s], sign[s]))
            stack.extend((s, False) for s in reversed(known))
    return order


def _is_commutative(operation: Operation) -> bool:
    info = find_name(operation.name)
    return info is not None and "commutes" in info.traits


def _find_family(operation: Operation) -> str:
    """What can stand in the place of an operation, and be its faulty copy."""
    info = find_name(operation.name)
    return operation.name if info is None else info.family


def _sort_in_execution_order(pairs: _Pairs) -> _Pairs:
    """In the order in which the expected operations ran; one without a counterpart there after the
    operation that it followed.
    """
    at = {i: j for i, j in pairs if i is not None and j is not None}
    keyed: list[tuple[tuple[int, int, int], tuple[int | None, int | None]]] = []
    for i, j in pairs:
        if j is not None:
            keyed.append(((j, 0, -1), (i, j)))
        elif i is not None:
            before = max((k for k in at if k < i), default=None)
            keyed.append(((at[before] if before is not None else -1, 1, i), (i, j)))
    return [pair for _, pair in sorted(keyed, key=lambda entry: entry[0])]


# -- gaps that could stand elsewhere ---------------------------------------------------------------


def _settle_gaps(
    pairs: _Pairs, actual: Operations, expected: Operations
) -> tuple[_Pairs, frozenset[int]]:
    """In a run of equal blocks any of them may be the one left over: names decide; where they do
    not, the pairs there are ambiguous.
    """
    ambiguous: set[int] = set()
    for side in (0, 1):
        start = 0
        while start < len(pairs):
            if not _is_gap(pairs[start], side):
                start += 1
                continue
            stop = start
            while stop < len(pairs) and _is_gap(pairs[stop], side):
                stop += 1
            ambiguous |= _settle_gap(pairs, start, stop, (actual, expected), side)
            start = stop
    return pairs, frozenset(ambiguous)


def _is_gap(pair: tuple[int | None, int | None], side: int) -> bool:
    """Whether the operation of this side has no counterpart."""
    return pair[side] is not None and pair[1 - side] is None


def _settle_gap(
    pairs: _Pairs, start: int, stop: int, both: tuple[Operations, Operations], side: int
) -> set[int]:
    """Try all places to which the gap can slide at no cost; choose that of most equal names; return
    what stays undecided.
    """
    longer, other = both[side], both[1 - side]
    low, high = start, stop
    while low > 0 and _can_swap(pairs[low - 1], pairs[high - 1 - (start - low)], longer, side):
        low -= 1
        if high - low > 10_000:
            break
    shift = low - start
    width = stop - start
    while high < len(pairs) and _can_swap(pairs[high], pairs[high - width], longer, side):
        high += 1
    if (low, high) == (start, stop):
        return set()
    own = [pairs[k][side] for k in range(low, high)]
    theirs = [pairs[k][1 - side] for k in range(low, high) if not start <= k < stop]
    scores = {}
    for offset in range(len(own) - width + 1):
        kept = own[:offset] + own[offset + width :]
        scores[offset] = sum(
            longer[i].module == other[j].module
            for i, j in zip(kept, theirs, strict=True)
            if i is not None and j is not None
        )
    best = max(scores.values())
    offsets = [offset for offset, score in scores.items() if score == best]
    chosen = -shift if -shift in offsets else offsets[0]
    rest = iter(theirs)
    for k in range(len(own)):
        partner = None if chosen <= k < chosen + width else next(rest)
        pairs[low + k] = (own[k], partner) if side == 0 else (partner, own[k])
    touched = {low + k for k in range(min(offsets), max(offsets) + width)}
    return {k for k in touched if _has_parameters(pairs[k], both)} if len(offsets) > 1 else set()


def _can_swap(
    pair: tuple[int | None, int | None],
    gap: tuple[int | None, int | None],
    longer: Operations,
    side: int,
) -> bool:
    """Whether the paired operation and the one that would take its place are the same to anyone who
    only sees structure.
    """
    ours, left_over = pair[side], gap[side]
    if ours is None or pair[1 - side] is None or left_over is None:
        return False
    return _make_signature(longer[ours]) == _make_signature(longer[left_over])


def _has_parameters(
    pair: tuple[int | None, int | None], both: tuple[Operations, Operations]
) -> bool:
    return any(k is not None and bool(both[side][k].parameters) for side, k in enumerate(pair))


def _find_moved(
    pairs: _Pairs, actual: Operations, expected: Operations
) -> tuple[tuple[int, int], ...]:
    """What is left over on both sides and is the same operation: it stands elsewhere."""
    waiting: dict[str, list[int]] = {}
    for i, j in pairs:
        if i is None and j is not None and expected[j].name != "identity":
            waiting.setdefault(_identify(expected[j]), []).append(j)
    found = []
    for i, j in pairs:
        if j is None and i is not None and waiting.get(_identify(actual[i])):
            found.append((i, waiting[_identify(actual[i])].pop(0)))
    return tuple(found)


def _identify(operation: Operation) -> str:
    """What an operation is, wherever it stands."""
    return repr(
        (
            operation.name,
            sorted(operation.config.items(), key=str),
            sorted(operation.shapes.items()),
        )
    )
