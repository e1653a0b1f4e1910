"""Finds the runs of items that repeat, what repeats in them and what varies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from cnnprobe.comparison.refactoring.branches import Item, Parallel
from cnnprobe.comparison.refactoring.layers import VARYING, Layer

_LEAST = 2  # operations in a block; a single layer needs no class


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The same pattern of items several times in a row; `sign` is what all instances share."""

    sign: str
    instances: tuple[tuple[Item, ...], ...]


Piece = Item | Run


def fold(items: Sequence[Item]) -> tuple[Piece, ...]:
    """The items with every repeated pattern as a Run, the largest first."""
    pieces: list[Piece] = []
    for piece in _fold(_turn_chains_into_blocks(items)):
        if isinstance(piece, Parallel) and not piece.joins:  # it found no run to belong to
            pieces += next(branch for branch in piece.branches if branch)
        else:
            pieces.append(piece)
    return tuple(pieces)


def _fold(items: Sequence[Item]) -> tuple[Piece, ...]:
    signs = [make_sign(item) for item in items]
    best = _find_best(items, signs)
    if best is None:
        return tuple(items)
    start, period, count = best
    instances = tuple(
        tuple(items[start + k * period : start + (k + 1) * period]) for k in range(count)
    )
    run = Run(sign=" ".join(signs[start : start + period]), instances=instances)
    return (*_fold(items[:start]), run, *_fold(items[start + count * period :]))


def _turn_chains_into_blocks(items: Sequence[Item]) -> list[Item]:
    """Chains that are the main branch of a residual block without its sum, as in MobileNetV2 where
    the width changes, count as that block.
    """
    mains: dict[str, Parallel] = {}
    for item in items:
        if isinstance(item, Parallel) and split(item)[1] == ():
            mains.setdefault(" ".join(map(make_strict_sign, split(item)[0])), item)
    found, signs = list(items), [make_strict_sign(item) for item in items]
    for model in sorted(
        mains.values(), key=lambda item: -len(split(item)[0])
    ):  # a shorter one may be the end of a longer one
        main = [make_strict_sign(item) for item in split(model)[0]]
        k = 0
        while k + len(main) <= len(found):
            if signs[k : k + len(main)] == main:
                chain = tuple(found[k : k + len(main)])
                branches = tuple(chain if branch else () for branch in model.branches)
                block = Parallel(branches=branches, join="+", dim=0, operation=-1, joins=False)
                found[k : k + len(main)] = [block]
                signs[k : k + len(main)] = [make_strict_sign(block)]
            k += 1
    return found


def _find_best(items: Sequence[Item], signs: Sequence[str]) -> tuple[int, int, int] | None:
    """Start, period and count of the run that saves most; of its rotations the last that begins
    with a layer of weights.
    """
    best: tuple[int, int, int] | None = None
    most: tuple[int, int, bool, int] = (0, 0, False, 0)
    strict = [make_strict_sign(item) for item in items]
    sizes = [count_operations(item) for item in items]
    before = list(accumulate(sizes, initial=0))  # operations before an item
    bound = _bound_operations(signs, sizes)
    for period in range(1, len(items) // 2 + 1):
        if bound[-1] - period <= most[0]:  # one instance is not saved: longer ones save less
            break
        for start, stop in _find_stretches(signs, period):
            if bound[stop + period] - bound[start] - period < most[0]:
                continue
            longest = (stop - start) // period + 1
            for first in range(start, start + (stop - start) % period + 1):
                weight = before[first + period] - before[first]
                rank = (weight * (longest - 1), -period, _has_weights(items[first]), first)
                if weight < _LEAST or rank <= most:
                    continue
                if not _is_unlike(items, (signs, strict), first, (period, longest)):
                    best, most = (first, period, longest), rank
    return best


def _bound_operations(signs: Sequence[str], sizes: Sequence[int]) -> list[int]:
    """The most operations before an item: of one sign, one shortcut may have more than another."""
    largest: dict[str, int] = {}
    for sign, size in zip(signs, sizes, strict=True):
        largest[sign] = max(size, largest.get(sign, 0))
    return list(accumulate((largest[sign] for sign in signs), initial=0))


def _is_unlike(
    items: Sequence[Item],
    signs: tuple[Sequence[str], Sequence[str]],
    first: int,
    size: tuple[int, int],
) -> bool:
    """Whether a pattern repeats in itself, or is of several convolutions whose kernels vary: no
    block that a person would see there.

    Args:
        items: of the whole pass.
        signs: of the items, by `make_sign` and by `make_strict_sign`.
        first: where the pattern begins.
        size: its length, and how often it comes.
    """
    period, count = size
    loose, strict = signs
    places = range(first, first + period)
    parallels = [k for k in places if isinstance(items[k], Parallel)]
    if len({loose[k] for k in parallels}) < len(parallels):
        return True
    convolutions = [
        k for k in places if isinstance(item := items[k], Layer) and item.kind.startswith("Conv")
    ]
    several = convolutions if len(convolutions) > 1 else []
    return any(
        len({strict[k + n * period] for n in range(count)}) > 1 for k in (*several, *parallels)
    )


def _find_stretches(signs: Sequence[str], period: int) -> Iterator[tuple[int, int]]:
    """Where each sign is that of one period later, for at least one period: from, to."""
    end, stop = len(signs) - period, 0
    for k in range(period - 1, end, period):  # every stretch of a period has one of these places
        if k < stop or signs[k] != signs[k + period]:
            continue
        start, stop = k, k + 1
        while start and signs[start - 1] == signs[start - 1 + period]:
            start -= 1
        while stop < end and signs[stop] == signs[stop + period]:
            stop += 1
        if stop - start >= period:
            yield start, stop


def make_strict_sign(item: Item) -> str:
    """As `make_sign`, with the sizes of kernels."""
    return make_sign(item, varying=VARYING - {"kernel_size", "padding"})


def make_sign(item: Item, *, varying: frozenset[str] = VARYING) -> str:
    """What makes two items the same but for what may vary."""
    if isinstance(item, Layer):
        fixed = {name: value for name, value in item.arguments.items() if name not in varying}
        kind = "Depthwise" + item.kind if _is_depthwise(item) else item.kind
        return f"{kind}{sorted(fixed.items(), key=str)}"
    if isinstance(item, Parallel):
        main, shortcut = split(item)
        if shortcut is not None:
            inner = " ".join(make_sign(layer, varying=varying) for layer in main)
            return f"<{inner} {item.join} shortcut {item.branches.index(main)}>"
        signs = (
            " ".join(make_sign(each, varying=varying) for each in branch)
            for branch in item.branches
        )
        return f"<{f' {item.join}{item.dim} '.join(signs)}>"
    return item.text


def split(item: Parallel) -> tuple[tuple[Item, ...], tuple[Item, ...] | None]:
    """Main branch and shortcut of a residual block (the shortcut is the shorter one, of layers
    without activation); None: it is none.
    """
    if item.join != "+" or len(item.branches) != 2:
        return item.branches[0], None
    main, shortcut = sorted(item.branches, key=lambda branch: -sum(map(count_operations, branch)))
    if len(shortcut) < len(main) and all(isinstance(inner, Layer) for inner in shortcut):
        return main, shortcut
    return item.branches[0], None


def count_operations(item: Item) -> int:
    """Operations in an item."""
    return (
        1 + sum(count_operations(inner) for branch in item.branches for inner in branch)
        if isinstance(item, Parallel)
        else 1
    )


def _is_depthwise(layer: Layer) -> bool:
    groups = layer.arguments.get("groups", 1)
    return groups != 1 and groups == layer.arguments.get("in_channels")


def _has_weights(item: Item) -> bool:
    return isinstance(item, Parallel) or (
        isinstance(item, Layer)
        and item.kind.startswith(("Conv", "Linear", "BatchNorm", "GroupNorm", "LayerNorm"))
    )
