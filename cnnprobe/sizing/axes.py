"""Which sizes of the input can be chosen, and between which bounds, found by trial on shapes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cnnprobe.crash.least_input import find_least, find_most, find_step, list_starts
from cnnprobe.sizing.runs import Place, Runs, SizeAxis, place_sizes

_NAMES = {
    1: ("N",),
    2: ("N", "L"),
    3: ("N", "C", "L"),
    4: ("N", "C", "H", "W"),
    5: ("N", "C", "D", "H", "W"),
}
_LENGTH = "L"  # of what comes one after the other: the one dim besides the batch that may vary


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The sizes of an axis that pass: `least`, `least + step`, ... up to `most` (None: no end)."""

    least: int
    most: int | None
    step: int  # 1 where one size alone passes

    def allows(self, size: int) -> bool:
        """Whether a size is one of them."""
        is_inside = self.least <= size and (self.most is None or size <= self.most)
        return is_inside and (size - self.least) % self.step == 0


def find_axes(runs: Runs) -> tuple[SizeAxis, ...]:
    """The batch and whatever else of the first input may vary; height and width also where one
    value alone passes, as the layers before the one that asks for it have formulas of them.
    """
    shape = runs.shapes[0]
    free: dict[int, tuple[Place, ...]] = {}
    for dim in range(len(shape)):
        found = _find_places(runs, dim)
        if found is not None:
            free[dim] = found
    spatial = range(2, len(shape)) if len(shape) > 3 else ()
    held = [dim for dim in spatial if dim not in free]
    if len(held) > 1 and (together := _tie(runs, held)) is not None:
        free[held[0]] = together
    elif held:
        free.update({dim: _list_places(runs, dim) for dim in held})
    return tuple(
        SizeAxis(name=name, places=free[dim], given=shape[dim])
        for dim, name in sorted(_name_dims(len(shape), free).items())
    )


def _find_places(runs: Runs, dim: int) -> tuple[Place, ...] | None:
    """The dims that follow this one: it alone, or that of every input of the same size there."""
    for places in dict.fromkeys((((0, dim),), _list_places(runs, dim))):
        if _can_vary(runs, places):
            return places
    return None


def _list_places(runs: Runs, dim: int) -> tuple[Place, ...]:
    size = runs.shapes[0][dim]
    return tuple(
        (number, dim)
        for number, shape in enumerate(runs.shapes)
        if dim < len(shape) and shape[dim] == size
    )


def _tie(runs: Runs, dims: Sequence[int]) -> tuple[Place, ...] | None:
    """Dims that may vary only together, all alike."""
    if len({runs.shapes[0][dim] for dim in dims}) > 1:
        return None
    places = tuple(place for dim in dims for place in _list_places(runs, dim))
    return places if _can_vary(runs, places) else None


def _can_vary(runs: Runs, places: Iterable[Place]) -> bool:
    fixed = tuple(places)
    size = runs.shapes[fixed[0][0]][fixed[0][1]]

    def does_pass(other: int) -> bool:
        return runs.passes(dict.fromkeys(fixed, other))

    return find_step(does_pass, size) is not None or find_least(does_pass, size, 1) < size


def _name_dims(rank: int, free: Iterable[int]) -> dict[int, str]:
    """Dim -> its name, of the dims that vary.

    >>> _name_dims(4, [0, 2, 3]), _name_dims(3, [0, 1]), _name_dims(3, [1, 2])
    ({0: 'N', 2: 'H', 3: 'W'}, {0: 'N', 1: 'L'}, {1: 'H', 2: 'W'})
    """
    dims = sorted(free)
    if rank == 3 and dims == [1, 2]:  # an image without a batch
        return {1: "H", 2: "W"}
    if rank == 3 and dims == [0, 1]:  # a sequence of vectors
        return {0: "N", 1: _LENGTH}
    names = _NAMES.get(rank, ("N", *(f"D{i}" for i in range(1, rank))))
    return {dim: names[dim] for dim in dims}


def find_bounds(runs: Runs, axes: Sequence[SizeAxis], number: int) -> Bounds:
    """Which sizes of one axis pass while the others are as given."""
    given = tuple(axis.given for axis in axes)

    def does_pass(size: int) -> bool:
        return runs.passes(place_sizes(axes, (*given[:number], size, *given[number + 1 :])))

    start = given[number]
    step = find_step(does_pass, start)
    least = find_least(does_pass, start, step or 1)
    if axes[number].name == "N":  # no layer asks for a largest batch
        return Bounds(least=least, most=None if step else start, step=step or 1)
    most = find_most(does_pass, start, step) if step else start
    return Bounds(least=least, most=most, step=step or 1)


def find_start(runs: Runs) -> dict[Place, int] | None:
    """Changes of the sizes with which the forward passes: two samples, as a BatchNorm may need, or
    another height and width; {} where it passes as given.
    """
    dims = range(2, len(runs.shapes[0])) if len(runs.shapes[0]) > 2 else ()
    if runs.passes({}):
        return {}
    two = dict.fromkeys(_list_places(runs, 0), 2)
    if runs.passes(two):
        return two
    for size in list_starts() if dims else ():
        changes = {place: size for dim in dims for place in _list_places(runs, dim)}
        if runs.passes(changes):
            return changes
    return None
