"""At which sizes a model is run so that formulas can be made of its shapes, and which sizes check
them.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from cnnprobe.crash.least_input import LARGEST
from cnnprobe.records.sizes import Form
from cnnprobe.records.trace import Trace
from cnnprobe.sizing.axes import Bounds
from cnnprobe.sizing.forms import find_period, find_telling
from cnnprobe.sizing.runs import Runs, SizeAxis, place_sizes

# Elements between two sizes that show a slope: a multiple of every product of usual strides.
_FAR = 6720
NEAR = 480  # where an operation runs on real zeros, which a large size would make slow
# Elements from the given size to further samples, in steps of the legal ones: without a common
# period with strides, so that rounding of any kind shows.
_SPREAD = (37, 101, 173, 211, 307, 451)
_VERIFIED = 4

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The output shapes of every completed call at some sizes, by the number of the call."""

    sizes: tuple[int, ...]
    shapes: Mapping[int, Shapes]
    trace: Trace
    strayed: bool = False  # a forward made other calls than at the given sizes


class Sampler:
    """Makes forward passes, and numbers the calls so that the same one has the same number at every
    size.
    """

    def __init__(self, runs: Runs, axes: Sequence[SizeAxis]) -> None:
        self._runs, self._axes = runs, axes
        self._numbers: dict[tuple[int, str, str, int], int] = {}
        self._paths: dict[int, list[int]] = {}  # of the first pass: the calls in each call

    def see(self, sizes: tuple[int, ...]) -> Seen:
        """The shapes at these sizes, as far as the forward came; those of functions only where
        their module called the same ones at the sizes that were seen first.
        """
        trace = self._runs.run(place_sizes(self._axes, sizes)).trace
        numbers = self.number(trace)
        strayed = self._find_strayed(trace, numbers)
        shapes = {
            number: tuple(tensor.shape for tensor in call.outputs)
            for number, call in zip(numbers, trace.calls, strict=True)
            if call.completed and (call.fqn is not None or call.parent not in strayed)
        }
        return Seen(sizes=sizes, shapes=shapes, trace=trace, strayed=bool(strayed))

    def _find_strayed(self, trace: Trace, numbers: Sequence[int]) -> set[int]:
        """The calls in which others were made than in the first pass."""
        inside: dict[int, list[int]] = {i: [] for i in range(len(numbers))}
        for number, call in zip(numbers, trace.calls, strict=True):
            if call.parent is not None:
                inside[call.parent].append(number)
        if not self._paths:
            self._paths = {numbers[i]: found for i, found in inside.items()}
        strayed = set()
        for i, found in inside.items():
            expected = self._paths.get(numbers[i], [])
            if found != (expected if trace.calls[i].completed else expected[: len(found)]):
                strayed.add(i)
        return strayed

    def number(self, trace: Trace) -> list[int]:
        """A number for each call: by the one that it is made in, its name, and how often before."""
        found: list[int] = []
        before: Counter[tuple[int, str, str]] = Counter()
        for call in trace.calls:
            above = -1 if call.parent is None else found[call.parent]
            name = (above, call.fqn or "", call.kind)
            key = (*name, before[name])
            before[name] += 1
            found.append(self._numbers.setdefault(key, len(self._numbers)))
        return found


def take_samples(
    sampler: Sampler, axes: Sequence[SizeAxis], bounds: Sequence[Bounds]
) -> Iterator[Seen]:
    """The given sizes, each size much larger alone, and all sizes a little larger together: often
    enough that every remainder of the strides is seen.
    """
    given = tuple(axis.given for axis in axes)
    first = sampler.see(given)
    yield first
    needs_values = any("zeros" in note for note in first.trace.notes)
    taken = [first]
    for i, axis in enumerate(axes):
        is_batch = axis.name == "N"
        for more in (1, 2) if is_batch else (NEAR if needs_values else _FAR,):
            seen = sampler.see((*given[:i], given[i] + more, *given[i + 1 :]))
            taken.append(seen)
            yield seen
    period = find_sample_period(taken)
    steps = [_choose_step(axis, bound) for axis, bound in zip(axes, bounds, strict=True)]
    moving = [step for step in steps if step]
    most = max((max(period // step, 3) for step in moving), default=1)
    for k in (*range(1, most), *(_SPREAD if moving else ())):
        yield sampler.see(tuple(g + k * s for g, s in zip(given, steps, strict=True)))


def take_smaller(
    sampler: Sampler, axes: Sequence[SizeAxis], bounds: Sequence[Bounds]
) -> Iterator[Seen]:
    """Sizes below the given ones, each alone and all together: where a forward takes another path
    at larger ones, as a window that is as large as the map is not shifted.
    """
    given = tuple(axis.given for axis in axes)
    moving = [i for i, axis in enumerate(axes) if axis.name != "N"]
    for eighths in range(7, 0, -1):
        smaller = tuple(
            _shrink(axis.given, eighths, bound) if i in moving else axis.given
            for i, (axis, bound) in enumerate(zip(axes, bounds, strict=True))
        )
        alone = [(*given[:i], smaller[i], *given[i + 1 :]) for i in moving if eighths % 2 == 0]
        for sizes in dict.fromkeys((smaller, *alone)):
            yield sampler.see(sizes)


def _shrink(size: int, eighths: int, bound: Bounds) -> int:
    steps = (size * eighths // 8 - bound.least) // bound.step
    return bound.least + bound.step * max(steps, 0)


def _choose_step(axis: SizeAxis, bound: Bounds) -> int:
    """The distance of neighbouring samples; 0 leaves the axis as it is."""
    if axis.name == "N":
        return 0
    return bound.step if bound.allows(axis.given + bound.step) else 1


def find_sample_period(samples: Sequence[Seen]) -> int:
    """The number of elements after which the rounding of every layer repeats."""
    first = samples[0]
    slopes: set[Fraction] = set()
    for seen in samples[1:]:
        moved = [b - a for a, b in zip(first.sizes, seen.sizes, strict=True) if a != b]
        if len(moved) != 1 or moved[0] < NEAR:
            continue
        for key, shapes in seen.shapes.items():
            for a, b in zip(first.shapes.get(key, ()), shapes, strict=False):
                slopes.update(Fraction(y - x, moved[0]) for x, y in zip(a, b, strict=False))
    return find_period(slopes)


def choose_checks(
    axes: Sequence[SizeAxis], bounds: Sequence[Bounds], samples: Sequence[Seen]
) -> Iterator[tuple[int, ...]]:
    """Legal sizes that no sample has, drawn at random; any sizes where one alone is legal, for the
    layers before the one that asks for it.
    """
    draw, used = random.Random(0), {seen.sizes for seen in samples}
    for _ in range(_VERIFIED):
        sizes = tuple(
            _draw_size(draw, axis, bound) for axis, bound in zip(axes, bounds, strict=True)
        )
        if sizes not in used:
            used.add(sizes)
            yield sizes


def _draw_size(draw: random.Random, axis: SizeAxis, bound: Bounds) -> int:
    if axis.name == "N":
        return axis.given + draw.randint(3, 9) * bound.step if bound.most is None else axis.given
    if bound.most is not None and bound.most - bound.least < bound.step:
        return max(axis.given + draw.randint(-axis.given // 4, axis.given), 1)
    most = max(bound.least, 2 * axis.given) if bound.most is None else bound.most
    return bound.least + bound.step * draw.randint(0, max((most - bound.least) // bound.step, 4))


def choose_telling(
    axes: Sequence[SizeAxis], bounds: Sequence[Bounds], doubts: Sequence[Sequence[Form]]
) -> Iterator[tuple[int, ...]]:
    """Sizes that tell apart the forms which all give what was seen so far."""
    given = tuple(axis.given for axis in axes)
    names = [axis.name for axis in axes]
    for forms in doubts:
        i = names.index(forms[0].symbol)
        bound = bounds[i]
        end = max(LARGEST, 2 * bound.least) if bound.most is None else bound.most
        sizes = range(bound.least, end + 1, bound.step)
        if len(sizes) == 1:  # layers before the one that asks for it
            sizes = range(1, 2 * given[i])
        if (size := find_telling(forms, sizes)) is not None:
            yield (*given[:i], size, *given[i + 1 :])
