"""Numbers as people read them, and hostile text made harmless: shared by all formats."""

import functools
import math
import unicodedata
from collections.abc import Callable, Mapping

from cnnprobe.document.blocks import Cell, Facts, Shares, Spread, Trend, Unit
from cnnprobe.document.render.trends import sparkline

NOT_OBSERVED = "-"
_NAMED_PARTS = 4  # parts of a whole that are told in words
_SI = ("", " k", " M", " G", " T", " P", " E")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_INERT = frozenset(
    {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
)  # control, format (bidi marks, zero width), surrogate, line separators


def count(number: float) -> str:
    """An exact count: `1,147,466`."""
    return f"{number:,}"


def si(number: float) -> str:
    """A count in three digits with an SI prefix.

    >>> si(1_147_466), si(999), si(999_999)
    ('1.15 M', '999', '1.00 M')
    """
    return _scaled(number, 1000, _SI) if math.isfinite(number) else value(number)


def size(number: float) -> str:
    """Bytes in three digits with a binary prefix.

    >>> size(4_589_864), size(512), size(1024)
    ('4.38 MiB', '512 B', '1.00 KiB')
    """
    return (
        _scaled(number, 1024, tuple(f" {unit}" for unit in _BINARY))
        if math.isfinite(number)
        else value(number)
    )


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while abs(number) >= step and power < len(units) - 1:
        number /= step
        power += 1
    text = (
        _three_digits(number)
        if power
        else f"{number:.0f}"
        if number == int(number)
        else f"{number:.3g}"
    )
    if (
        text.lstrip("-") == "1000" and step == 1000 and power < len(units) - 1
    ):  # 999,999 rounds up into the next prefix
        text, power = text.replace("1000", "1.00"), power + 1
    return text + units[power]


def _three_digits(number: float) -> str:
    for decimals, bound in ((2, 9.995), (1, 99.95)):
        if abs(number) < bound:
            return f"{number:.{decimals}f}"
    return f"{number:.0f}"


def value(number: float) -> str:
    """A measured number in four digits, very large and very small ones in three.

    >>> value(0.123456), value(16.7), value(-12345.6), value(1e-9), value(0.0), value(float("nan"))
    ('0.1235', '16.70', '-1.23e+04', '1.00e-09', '0', 'NaN')
    """
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Inf" if number > 0 else "-Inf"
    if number == 0 or not 1e-3 <= abs(number) < 9999.5:
        return f"{number:.2e}" if number else "0"
    return f"{number:.4f}" if abs(number) < 1 else f"{number:#.4g}".rstrip(".")


def percent(fraction: float) -> str:
    """A fraction as a percentage; what is nearly all, or nearly nothing, is never rounded to it.

    >>> percent(0.5), percent(1.0), percent(0.99999), percent(0.0001), percent(0.0)
    ('50.0%', '100%', '>99.9%', '<0.1%', '0%')
    """
    if fraction in (0, 1) or not math.isfinite(fraction):
        return f"{fraction:.0%}" if math.isfinite(fraction) else value(fraction)
    if 0 < fraction < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= fraction < 1 else f"{fraction:.1%}"


def seconds(number: float) -> str:
    """A time in seconds, milliseconds or microseconds."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if number * factor >= 1:
            return f"{_three_digits(number * factor)} {unit}"
    return f"{_three_digits(number * 1e6)} us"


_FORMATS: Mapping[Unit, Callable[[float], str]] = {
    "": lambda number: f"{number}",
    "count": count,
    "si": si,
    "bytes": size,
    "value": value,
    "percent": percent,
    "seconds": seconds,
}


def written(cell: Cell, unit: Unit) -> str:
    """A cell as text, not yet escaped: None is "-", text stays."""
    if cell is None:
        return NOT_OBSERVED
    if isinstance(cell, Spread):
        return f"{value(cell.minimum)} to {value(cell.maximum)}"
    if isinstance(cell, Trend):
        return sparkline(cell.values)
    return cell if isinstance(cell, str) else _FORMATS[unit](cell)


def in_words(shares: Shares) -> Facts:
    """The largest parts of a whole, for formats that cannot draw it.

    >>> from cnnprobe.document.blocks import Share
    >>> in_words(Shares(title="MACs", unit="si", parts=(Share(name="conv", number=1), Share(name="fc", number=3)))).pairs
    (('MACs', 'fc 75.0% (3), conv 25.0% (1)'),)
    """
    whole = sum(part.number for part in shares.parts)
    largest = sorted((part for part in shares.parts if part.number), key=lambda part: -part.number)
    said = [
        f"{part.name} {percent(part.number / whole)} ({written(part.number, shares.unit)})"
        for part in largest[:_NAMED_PARTS]
    ]
    more = len(largest) - len(said)
    return Facts(
        pairs=(
            (shares.title, ", ".join(said) + (f" and {more} smaller" if more else "") or "none"),
        )
    )


def inert(text: str) -> str:
    r"""One line in which every character is seen: control characters, bidi and zero-width marks are shown by their code.

    >>> print(inert("a\x1b[31mb\u202ec\nd"))
    a\x1b[31mb\u202ec\nd
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


@functools.lru_cache(maxsize=4096)
def _visible(character: str) -> str:
    if unicodedata.category(character) not in _INERT:
        return character
    return character.encode("unicode_escape").decode("ascii")


def inert_lines(text: str) -> list[str]:
    """The lines of a text, each inert; tabs become spaces."""
    return [inert(line) for line in text.expandtabs(4).replace("\r\n", "\n").split("\n")]
