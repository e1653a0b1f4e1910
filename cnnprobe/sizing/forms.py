"""Formulas found from numbers: which floor, ceil, product or sum gives what was seen at a few
sizes. No torch.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from cnnprobe.records.sizes import Dim, Form, Product, evaluate_form

# A divisor is a product of strides; 128 is more than any classification network has.
LARGEST_DIVISOR = 128
_LARGEST_TIMES = 4  # of a rounded form, where only few sizes are legal and the slope is not known
_MOST_FORMS = 64  # that all give what was seen at a few sizes; more sizes tell them apart
_RECENT = 12  # forms of each symbol that are tried in products, the latest first

Sizes = Mapping[str, int]


class Fitter:
    """Finds a dim for the numbers that were seen, and remembers the forms: a later product is one
    of these.
    """

    def __init__(self, samples: Sequence[Sizes]) -> None:
        self._samples = samples
        self._names = tuple(samples[0]) if samples else ()
        self._forms: dict[str, list[Form]] = {name: [Form(symbol=name)] for name in self._names}
        self._known: dict[tuple[int | None, ...], Dim | None] = {}
        self.doubts: list[tuple[Form, ...]] = []  # forms that all give what was seen

    def fit(self, values: tuple[int | None, ...]) -> Dim | None:
        """The dim that has these values at the samples, None: not seen there; None where no formula
        fits.
        """
        if values not in self._known:
            self._known[values] = self._find(values)
        return self._known[values]

    def _find(self, values: tuple[int | None, ...]) -> Dim | None:
        seen = [(s, v) for s, v in zip(self._samples, values, strict=True) if v is not None]
        if len({value for _, value in seen}) == 1:
            return Dim(constant=seen[0][1])
        for fit in (_fit_one, self._fit_nested):
            for name in self._names:
                if forms := fit(name, seen):
                    if forms[0] not in self._forms[name]:
                        self._forms[name].append(forms[0])
                    if len(forms) > 1:
                        self.doubts.append(forms)
                    return Dim(products=(Product(forms=forms[:1]),))
        return self._fit_several(seen)

    def _fit_nested(self, name: str, seen: Sequence[tuple[Sizes, int]]) -> tuple[Form, ...]:
        """A form of an earlier one, as of a map that is padded up to whole windows: its remainders
        come again only after more elements than were tried.
        """
        if len({sizes[name] for sizes, _ in seen}) < 2:
            return ()
        for inner in reversed(self._forms[name]):
            if inner.divisor > 1 and inner.inner is None:
                values = [({name: evaluate_form(inner, s[name])}, value) for s, value in seen]
                if outer := _fit_one(name, values):
                    return tuple(_compose(form, inner) for form in outer)
        return ()

    def forget_misses(self) -> None:
        """Look again for what was not found: the forms of later calls are known by now."""
        self._known = {values: dim for values, dim in self._known.items() if dim is not None}

    def _fit_several(self, seen: Sequence[tuple[Sizes, int]]) -> Dim | None:
        """A product, or a sum, of forms of two symbols or more."""
        for forms in self._list_candidates():
            factors = [
                tuple(evaluate_form(form, sizes[form.symbol]) for form in forms)
                for sizes, _ in seen
            ]
            numbers = [number for _, number in seen]
            found = _fit_product(forms, factors, numbers) or _fit_sum(forms, factors, numbers)
            if found is not None:
                return found
        return None

    def _list_candidates(self) -> Iterator[tuple[Form, ...]]:
        for count in range(2, len(self._names) + 1):
            for names in itertools.combinations(self._names, count):
                yield from itertools.product(*(self._forms[n][: -_RECENT - 1 : -1] for n in names))


def _compose(outer: Form, inner: Form) -> Form:
    """A form of a form, as one where that is possible: floor((floor((n + a)/b) + c)/d) is
    floor((n + a + b*c)/(b*d)).

    >>> _compose(Form(symbol="H", shift=6, divisor=7), Form(symbol="H", divisor=32))
    Form(symbol='H', inner=None, times=1, shift=192, divisor=224, offset=0, is_exact=False)
    """
    number, divisor = inner.offset + outer.shift, outer.divisor
    if inner.times % divisor == 0 and number % divisor == 0:  # (7*n + 7)/7 is n + 1
        times = outer.times * (inner.times // divisor)
        return replace(inner, times=times, offset=outer.times * (number // divisor) + outer.offset)
    if inner.times != 1:
        return replace(outer, inner=inner)
    return replace(
        outer,
        shift=inner.shift + inner.divisor * (inner.offset + outer.shift),
        divisor=inner.divisor * outer.divisor,
        is_exact=False,
    )


def _fit_product(
    forms: tuple[Form, ...], factors: Sequence[tuple[int, ...]], values: Sequence[int]
) -> Dim | None:
    """`constant + factor * product`, where it gives every value."""
    products = [math.prod(each) for each in factors]
    second = next((i for i, p in enumerate(products) if p != products[0]), None)
    if second is None:
        return None
    slope = Fraction(values[second] - values[0], products[second] - products[0])
    constant = values[0] - slope * products[0]
    if constant.denominator != 1 or slope == 0:
        return None
    if any(constant + slope * p != v for p, v in zip(products, values, strict=True)):
        return None
    product = Product(forms=forms, numerator=slope.numerator, denominator=slope.denominator)
    return Dim(constant=int(constant), products=(product,))


def _fit_sum(
    forms: tuple[Form, ...], factors: Sequence[tuple[int, ...]], values: Sequence[int]
) -> Dim | None:
    """`constant + one form + another`, where it gives every value."""
    constants = {value - sum(each) for each, value in zip(factors, values, strict=True)}
    if len(constants) != 1:
        return None
    return Dim(constant=constants.pop(), products=tuple(Product(forms=(f,)) for f in forms))


def _fit_one(name: str, seen: Sequence[tuple[Sizes, int]]) -> tuple[Form, ...]:
    """The forms of one symbol that give every value, the simplest first; of the least divisor where
    the sizes are near each other.
    """
    points: dict[int, int] = {}
    for sizes, value in seen:
        if points.setdefault(sizes[name], value) != value:
            return ()  # it follows from something else, too
    if len(points) < 2:
        return ()
    if max(points) - min(points) > LARGEST_DIVISOR:
        slopes = _list_far_slopes(points)
        found = (form for slope in slopes for form in _fit_shift(name, *slope, points))
        return tuple(itertools.islice(found, _MOST_FORMS))
    for times, divisor in _list_near_slopes(points):
        if forms := tuple(_fit_shift(name, times, divisor, points)):
            return forms
    return ()


def _list_near_slopes(points: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Numerators and divisors, the simplest first; of sizes so near that the slope is not known."""
    for divisor in range(1, max(points) - min(points) + 2):
        for times in range(1, _LARGEST_TIMES + 1):
            if math.gcd(times, divisor) == 1:
                yield times, divisor


def _list_far_slopes(points: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Numerators and divisors that the sizes furthest from each other leave open: padded up to
    multiples of 8, 14 is 16 and 434 is 440.

    >>> (8, 8) in _list_far_slopes({14: 16, 434: 440}), next(_list_far_slopes({0: 0, 640: 40}))
    (True, (1, 16))
    """
    low, high = min(points), max(points)
    run, rise = high - low, abs(points[high] - points[low])
    sign = 1 if points[high] > points[low] else -1
    for times in range(1, LARGEST_DIVISOR + 1):
        # Each of the two is rounded by less than a whole step:
        # |rise * divisor - times * run| <= times * (divisor - 1).
        least = -(-times * (run + 1) // (rise + times))
        most = times * (run - 1) // (rise - times) if rise > times else LARGEST_DIVISOR
        for divisor in range(least, min(most, LARGEST_DIVISOR) + 1):
            yield sign * times, divisor


def _fit_shift(name: str, times: int, divisor: int, points: Mapping[int, int]) -> Iterator[Form]:
    """The forms of a slope: that without a remainder, then floor, then ceil, then the others."""
    if not _is_slope_of(times, divisor, points):
        return
    first = next(iter(points))
    exact = -first % divisor
    is_exact = divisor > 1 and all((size + exact) % divisor == 0 for size in points)
    order = (*([exact] if is_exact else ()), 0, divisor - 1, *range(divisor))
    for inside in dict.fromkeys(order):
        shift, offset = inside, points[first] - times * ((first + inside) // divisor)
        if offset and offset % times == 0 and not is_exact:  # as one number
            shift, offset = shift + divisor * (offset // times), 0
        form = Form(symbol=name, times=times, shift=shift, divisor=divisor, offset=offset)
        if all(evaluate_form(form, size) == value for size, value in points.items()):
            yield replace(form, is_exact=is_exact and shift == exact)


def _is_slope_of(times: int, divisor: int, points: Mapping[int, int]) -> bool:
    """Whether the values rise from the first size to each other as some shift may have them rise:
    by the difference over the divisor, rounded down or up.
    """
    first, start = next(iter(points.items()))
    for size, value in points.items():
        whole, part = divmod(size - first, divisor)
        risen, rest = divmod(value - start, times)
        if rest or (risen != whole and not (part and risen == whole + 1)):
            return False
    return True


def find_telling(forms: Sequence[Form], sizes: Iterable[int]) -> int | None:
    """The size that tells most of these forms from each other; None where all of them agree.

    >>> find_telling((Form(symbol="H", divisor=2), Form(symbol="H", divisor=2, shift=1)), range(4, 9))
    5
    """  # noqa: E501
    found, most = None, 1
    for size in sizes:
        kinds = len({evaluate_form(form, size) for form in forms})
        if kinds > most:
            found, most = size, kinds
    return found


def find_period(slopes: Iterable[Fraction]) -> int:
    """The least common multiple of the denominators; larger ones are no strides.

    >>> find_period([Fraction(1, 4), Fraction(3, 2), Fraction(1, 3)])
    12
    """
    period = 1
    for slope in slopes:
        joined = math.lcm(period, slope.denominator)
        if joined <= LARGEST_DIVISOR:
            period = joined
    return period
