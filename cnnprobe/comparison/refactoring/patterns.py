"""Finds the runs of items that repeat, what repeats in them and what varies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    found = list(items)
    for sign, model in sorted(
        mains.items(), key=lambda entry: -len(split(entry[1])[0])
    ):  # a shorter one may be the end of a longer one
        width = len(split(model)[0])
        k = 0
        while k + width <= len(found):
            chain = tuple(found[k : k + width])
            if " ".join(map(make_strict_sign, chain)) == sign:
                branches = tuple(chain if branch else () for branch in model.branches)
                found[k : k + width] = [
                    Parallel(branches=branches, join="+", dim=0, operation=-1, joins=False)
                ]
            k += 1
    return found


def _find_best(items: Sequence[Item], signs: Sequence[str]) -> tuple[int, int, int] | None:
    """Start, period and count of the run that saves most; of its rotations the last that begins
    with a layer of weights.
    """
    found: tuple[tuple[int, int, bool, int], tuple[int, int, int]] | None = None
    sizes = [count_operations(item) for item in items]
    for period in range(1, len(items) // 2 + 1):
        for start, stop in _find_stretches(signs, period):
            longest = (stop - start) // period + 1
            for shift in range((stop - start) % period + 1):
                first = start + shift
                weight = sum(sizes[first : first + period])
                if weight < _LEAST or _is_unlike(items, first, (period, longest)):
                    continue
                rank = (weight * (longest - 1), -period, _has_weights(items[first]), first)
                if found is None or rank > found[0]:
                    found = rank, (first, period, longest)
    return None if found is None else found[1]


def _is_unlike(items: Sequence[Item], first: int, size: tuple[int, int]) -> bool:
    """Whether a pattern repeats in itself, or is of several convolutions whose kernels vary: no
    block that a person would see there.
    """
    period, count = size
    inner = [
        make_sign(item) for item in items[first : first + period] if isinstance(item, Parallel)
    ]
    if len(set(inner)) < len(inner):
        return True
    convolutions = [
        k
        for k in range(period)
        if isinstance(item := items[first + k], Layer) and item.kind.startswith("Conv")
    ]
    several = convolutions if len(convolutions) > 1 else []
    parallels = [k for k in range(period) if isinstance(items[first + k], Parallel)]
    return any(
        len({make_strict_sign(items[first + n * period + k]) for n in range(count)}) > 1
        for k in (*several, *parallels)
    )


def _find_stretches(signs: Sequence[str], period: int) -> Iterator[tuple[int, int]]:
    """Where each sign is that of one period later, for at least one period: from, to."""
    start = 0
    for k in range(len(signs) - period + 1):
        if k + period < len(signs) and signs[k] == signs[k + period]:
            continue
        if k - start >= period:
            yield start, k
        start = k + 1


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
        return f"<{f' {item.join}{item.dim} '.join(' '.join(make_sign(x, varying=varying) for x in branch) for branch in item.branches)}>"
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
