"""Which axes a reshape was meant to move."""

import itertools
import math
from collections.abc import Iterator

MOST_AXES = 6  # 720 orders; tensors of more are left alone


def find_order(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of the axes from which a reshape that only merges neighbours gives `after`; the one
    that moves the fewest past each other. None where there is none, or nothing has to move.

    >>> find_order((8, 32, 32, 3), (8, 3, 32, 32)), find_order((8, 4, 16, 32), (32, 8, 64))
    ((0, 3, 1, 2), (3, 0, 1, 2))
    >>> find_order((8, 4, 16, 16), (8, 1024)) is None
    True
    """
    if len(before) > MOST_AXES or math.prod(before) != math.prod(after):
        return None
    orders = itertools.permutations(range(len(before)))
    fitting = [order for order in orders if _merges(tuple(before[k] for k in order), after)]
    best = min(fitting, key=_count_swaps, default=None)
    return best if best is not None and _count_swaps(best) else None


def _merges(sizes: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether runs of neighbouring sizes multiply to each of `after`."""
    rest: Iterator[int] = iter([n for n in sizes if n != 1])
    for wanted in (n for n in after if n != 1):
        size = 1
        while size < wanted:
            size *= next(rest, wanted + 1)
        if size != wanted:
            return False
    return next(rest, None) is None


def _count_swaps(order: tuple[int, ...]) -> int:
    return sum(a > b for a, b in itertools.combinations(order, 2))
