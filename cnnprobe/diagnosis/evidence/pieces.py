"""What the dims of a tensor are made of, as pieces of axes, and what a view makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What the values along a dim stand for, as long as no operation mixes them."""

    number: int
    role: str  # "batch", "channels", "height", "width", "positions"; "" where it is not known
    size: int
    maker: int | None = None  # the row that made it; None: it came from outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """`size` values of an axis, each `step` places behind the other."""

    axis: Axis
    size: int
    step: int = 1


Dim = tuple[Piece, ...]  # the outermost first; () for a dim of size 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Straddle:
    """A dim of a view that no pieces in their order multiply to: it begins or ends within one."""

    size: int  # of the new dim
    pieces: tuple[Piece, ...]  # from the first one that it is made of, to the last dim


def take_whole(axis: Axis) -> Dim:
    """The dim that holds an axis as it is."""
    return () if axis.size == 1 else (Piece(axis=axis, size=axis.size),)


def measure_dim(dim: Dim) -> int:
    """How many values a dim has."""
    size = 1
    for piece in dim:
        size *= piece.size
    return size


def list_roles(dim: Dim) -> set[str]:
    """The roles of what a dim is made of."""
    return {piece.axis.role for piece in dim}


def arrange(dims: Sequence[Dim], shape: Sequence[int]) -> tuple[Dim, ...] | Straddle:
    """What the dims of a view of this shape are made of: the same pieces in the same order.

    >>> row, column = (Axis(number=k, role="", size=n) for k, n in enumerate((6, 4)))
    >>> found = arrange([take_whole(row), take_whole(column)], (3, 8))
    >>> [[(p.axis.number, p.size, p.step) for p in dim] for dim in found]
    [[(0, 3, 2)], [(0, 2, 1), (1, 4, 1)]]
    >>> arrange([take_whole(row), take_whole(column)], (8, 3)).size
    8
    """
    rest = [piece for dim in dims for piece in dim]
    made: list[Dim] = []
    for size in shape:
        taken = _take(rest, size)
        if isinstance(taken, Straddle):
            return taken
        made.append(_join(taken))
    return tuple(made)


def _take(rest: list[Piece], size: int) -> Dim | Straddle:
    """The first pieces of `rest`, as many as make a dim of this size; they are taken out of it."""
    taken: list[Piece] = []
    wanted = size
    while wanted > 1 and rest:
        first = rest.pop(0)
        if wanted % first.size == 0:
            taken.append(first)
            wanted //= first.size
        elif first.size % wanted == 0:
            inner = first.size // wanted
            taken.append(Piece(axis=first.axis, size=wanted, step=first.step * inner))
            rest.insert(0, Piece(axis=first.axis, size=inner, step=first.step))
            wanted = 1
        else:
            return Straddle(size=size, pieces=(*taken, first, *rest))
    return tuple(taken)


def _join(dim: Dim) -> Dim:
    """Neighbouring pieces of one axis, where they follow each other in it, as one."""
    joined: list[Piece] = []
    for piece in dim:
        last = joined[-1] if joined else None
        if last is not None and last.axis == piece.axis and last.step == (piece.size * piece.step):
            joined[-1] = replace(piece, size=last.size * piece.size)
        else:
            joined.append(piece)
    return tuple(joined)


def find_cut_across(dims: Sequence[Dim]) -> tuple[int, Axis] | None:
    """The first dim, behind the batch, that ends with the outer part of an axis while the next one
    begins with its inner part, and both hold another axis too; and that axis.

    >>> lines, columns, maps = (Axis(number=k, role="", size=4) for k in range(3))
    >>> whole = [take_whole(axis) for axis in (maps, lines, columns)]
    >>> find_cut_across([(), *arrange(whole, (8, 8))])[1] == lines
    True
    >>> find_cut_across([(), *arrange(whole, (4, 2, 8))]) is None
    True
    """
    for k in range(1, len(dims) - 1):
        this, following = dims[k], dims[k + 1]
        if len(this) > 1 and len(following) > 1 and this[-1].axis == following[0].axis:
            outer, inner = this[-1], following[0]
            if outer.step == inner.size * inner.step:
                return k, outer.axis
    return None


def name_role(dim: Dim) -> str:
    """The role of all pieces of a dim; "" where they differ or are not known."""
    roles = {piece.axis.role for piece in dim}
    return roles.pop() if len(roles) == 1 else ""
