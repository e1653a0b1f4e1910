"""The shapes of a model as formulas of the sizes of its input, as plain frozen data. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from cnnprobe.records.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """`times * floor((symbol + shift) / divisor) + offset`, a number that follows from one size."""

    symbol: str
    inner: "Form | None" = None  # stands in place of the symbol itself
    times: int = 1
    shift: int = 0
    divisor: int = 1
    offset: int = 0
    is_exact: bool = False  # the division has no remainder at any legal size


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """`numerator / denominator` times the product of the forms."""

    forms: tuple[Form, ...]
    numerator: int = 1
    denominator: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dim:
    """One dim of a shape: a constant and a sum of products; without products it never changes."""

    constant: int = 0
    products: tuple[Product, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedCall:
    """The output shapes of a call as formulas; None where no formula fits, and then `seen` has the
    numbers: sizes in the order of the symbols, and the shape.
    """

    call: int  # index in the trace
    outputs: tuple[tuple[Dim | None, ...], ...] = ()
    seen: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """A size of the input that can be chosen, and the values that the forward accepts.

    Legal are `least`, `least + step`, ... up to `most`; `given` is one of them.
    """

    name: str  # "N", "H", "W", ...
    given: int
    least: int
    most: int | None = None  # None: all that were tried, up to 2048
    step: int = 1
    # sizes at which no layer cuts off an edge: size % period in residues
    period: int = 1
    residues: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeCrash:
    """Why an input size is not accepted."""

    sizes: tuple[int, ...]  # that were tried, in the order of the symbols
    diagnosis: str
    message: str
    module: str | None = None
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedShapes:
    """Every shape of a model as a formula of the sizes of its input."""

    trace: Trace  # of a forward pass on shapes alone, at the given sizes
    symbols: tuple[Symbol, ...] = ()
    inputs: tuple[tuple[str, tuple[Dim, ...]], ...] = ()  # path of a tensor, its dims
    rows: tuple[SizedCall, ...] = ()
    crashes: tuple[SizeCrash, ...] = ()
    # sizes that no formula was made of, at which all that are shown hold
    verified: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = ()


def evaluate_form(form: Form, size: int) -> int:
    """The number that a form gives at a size.

    >>> evaluate_form(Form(symbol="H", shift=1, divisor=2), 7)
    4
    """
    if form.inner is not None:
        size = evaluate_form(form.inner, size)
    return form.times * ((size + form.shift) // form.divisor) + form.offset


def evaluate_dim(dim: Dim, sizes: Mapping[str, int]) -> int | None:
    """The dim at these sizes; None where that is no whole number.

    >>> evaluate_dim(Dim(constant=1, products=(Product(forms=(Form(symbol="H", divisor=16), Form(symbol="W", divisor=16))),)), {"H": 32, "W": 64})
    9
    """  # noqa: E501
    total = Fraction(dim.constant)
    for product in dim.products:
        values = (evaluate_form(form, sizes[form.symbol]) for form in product.forms)
        total += Fraction(product.numerator, product.denominator) * math.prod(values)
    return int(total) if total.denominator == 1 else None


def write_dim(dim: Dim | None) -> str:
    """A dim as people write it; "?" where there is no formula.

    >>> write_dim(Dim(products=(Product(forms=(Form(symbol="H", shift=1, divisor=2),)),)))
    'ceil(H/2)'
    >>> write_dim(Dim(constant=1, products=(Product(forms=(Form(symbol="H", divisor=16), Form(symbol="W", divisor=16))),)))
    'floor(H/16)*floor(W/16) + 1'
    >>> write_dim(Dim(products=(Product(forms=(Form(symbol="H", divisor=4, offset=-2, is_exact=True),)),)))
    'H/4 - 2'
    """  # noqa: E501
    if dim is None:
        return "?"
    text = ""
    for product in dim.products:
        text += (" + " if text else "") + _write_product(product)
    if not text:
        return str(dim.constant)
    return _add(text, dim.constant)


def _write_product(product: Product) -> str:
    is_one = len(product.forms) == 1 and product.numerator == product.denominator == 1
    parts = [_write_form(form, is_alone=is_one) for form in product.forms]
    if product.numerator != 1:
        parts.insert(0, str(product.numerator))
    text = "*".join(parts)
    return text if product.denominator == 1 else f"{text}/{product.denominator}"


def _write_form(form: Form, *, is_alone: bool) -> str:
    """A form, with brackets where it stands in a product."""
    name = form.symbol if form.inner is None else _write_form(form.inner, is_alone=True)
    times = "" if form.times == 1 else f"{form.times}*"
    if form.divisor == 1:
        is_sum = " " in name and form.times != 1
        number = form.times * form.shift + form.offset
        text = _add(times + (f"({name})" if is_sum else name), number)
    elif form.is_exact:
        # (H + 4)/2 is H/2 + 2
        whole, rest = divmod(form.shift, form.divisor)
        inside = _enclose(_add(name, rest))
        text = _add(f"{times}{inside}/{form.divisor}", form.times * whole + form.offset)
    else:
        text = _write_rounded(form, name, times)
    has_sum = " " in text.partition("(")[0] + text.rpartition(")")[2]
    return f"({text})" if has_sum and not is_alone else text


def _write_rounded(form: Form, name: str, times: str) -> str:
    """With the offset taken into the brackets where that is possible, as floor or ceil: whichever
    needs the smaller number.
    """
    shift, offset = form.shift, form.offset
    if form.times == 1:
        shift, offset = shift + form.divisor * offset, 0
    above = shift - (form.divisor - 1)  # floor((n + d - 1)/d) is ceil(n/d)
    rounding, inside = ("floor", shift) if abs(shift) <= abs(above) else ("ceil", above)
    return _add(f"{times}{rounding}({_enclose(_add(name, inside))}/{form.divisor})", offset)


def _enclose(text: str) -> str:
    return f"({text})" if " " in text else text


def _add(text: str, number: int) -> str:
    return text if number == 0 else f"{text} {'+' if number > 0 else '-'} {abs(number)}"
