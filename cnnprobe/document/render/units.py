"""Numbers as people read them, and hostile text made harmless: shared by all formats."""

import functools
import math
import unicodedata
from collections.abc import Callable, Mapping

from cnnprobe.document.blocks import Cell, Facts, Shares, Spread, Trend, Unit
from cnnprobe.document.render.trends import draw_sparkline

NOT_OBSERVED = "-"
_NAMED_PARTS = 4  # parts of a whole that are told in words
_SI = ("", " k", " M", " G", " T", " P", " E")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_INERT = frozenset(
    {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
)  # control, format (bidi marks, zero width), surrogate, line separators


def format_count(number: float) -> str:
    """An exact count: `1,147,466`."""
    return f"{number:,}"


def format_si(number: float) -> str:
    """A count in three digits with an SI prefix.

    >>> format_si(1_147_466), format_si(999), format_si(999_999)
    ('1.15 M', '999', '1.00 M')
    """
    return _scale(number, 1000, _SI) if math.isfinite(number) else format_value(number)


def format_size(number: float) -> str:
    """Bytes in three digits with a binary prefix.

    >>> format_size(4_589_864), format_size(512), format_size(1024)
    ('4.38 MiB', '512 B', '1.00 KiB')
    """
    return (
        _scale(number, 1024, tuple(f" {unit}" for unit in _BINARY))
        if math.isfinite(number)
        else format_value(number)
    )


def _scale(number: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while abs(number) >= step and power < len(units) - 1:
        number /= step
        power += 1
    text = (
        _write_three_digits(number)
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


def _write_three_digits(number: float) -> str:
    for decimals, bound in ((2, 9.995), (1, 99.95)):
        if abs(number) < bound:
            return f"{number:.{decimals}f}"
    return f"{number:.0f}"


def format_value(number: float) -> str:
    """A measured number in four digits, very large and very small ones in three.

    >>> format_value(0.123456), format_value(16.7), format_value(-12345.6), format_value(1e-9), format_value(0.0), format_value(float("nan"))
    ('0.1235', '16.70', '-1.23e+04', '1.00e-09', '0', 'NaN')
    """  # noqa: E501
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Inf" if number > 0 else "-Inf"
    if number == 0 or not 1e-3 <= abs(number) < 9999.5:
        return f"{number:.2e}" if number else "0"
    return f"{number:.4f}" if abs(number) < 1 else f"{number:#.4g}".rstrip(".")


def format_percent(fraction: float) -> str:
    """A fraction as a percentage; what is nearly all, or nearly nothing, is never rounded to it.

    >>> format_percent(0.5), format_percent(1.0), format_percent(0.99999), format_percent(0.0001), format_percent(0.0)
    ('50.0%', '100%', '>99.9%', '<0.1%', '0%')
    """  # noqa: E501
    if fraction in (0, 1) or not math.isfinite(fraction):
        return f"{fraction:.0%}" if math.isfinite(fraction) else format_value(fraction)
    if 0 < fraction < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= fraction < 1 else f"{fraction:.1%}"


def format_seconds(number: float) -> str:
    """A time in seconds, milliseconds or microseconds."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if number * factor >= 1:
            return f"{_write_three_digits(number * factor)} {unit}"
    return f"{_write_three_digits(number * 1e6)} us"


_FORMATS: Mapping[Unit, Callable[[float], str]] = {
    "": lambda number: f"{number}",
    "count": format_count,
    "si": format_si,
    "bytes": format_size,
    "value": format_value,
    "percent": format_percent,
    "seconds": format_seconds,
}


def format_cell(cell: Cell, unit: Unit) -> str:
    """A cell as text, not yet escaped: None is "-", text stays."""
    if cell is None:
        return NOT_OBSERVED
    if isinstance(cell, Spread):
        return f"{format_value(cell.minimum)} to {format_value(cell.maximum)}"
    if isinstance(cell, Trend):
        return draw_sparkline(cell.values)
    return cell if isinstance(cell, str) else _FORMATS[unit](cell)


def describe_shares(shares: Shares) -> Facts:
    """The largest parts of a whole, for formats that cannot draw it.

    >>> from cnnprobe.document.blocks import Share
    >>> describe_shares(Shares(title="MACs", unit="si", parts=(Share(name="conv", number=1), Share(name="fc", number=3)))).pairs
    (('MACs', 'fc 75.0% (3), conv 25.0% (1)'),)
    """  # noqa: E501
    whole = sum(part.number for part in shares.parts)
    largest = sorted((part for part in shares.parts if part.number), key=lambda part: -part.number)
    said = [
        (
            f"{part.name} {format_percent(part.number / whole)} "
            f"({format_cell(part.number, shares.unit)})"
        )
        for part in largest[:_NAMED_PARTS]
    ]
    more = len(largest) - len(said)
    return Facts(
        pairs=(
            (shares.title, ", ".join(said) + (f" and {more} smaller" if more else "") or "none"),
        )
    )


def make_inert(text: str) -> str:
    r"""One line in which every character is seen: control characters, bidi and zero-width marks are
    shown by their code.

    >>> print(make_inert("a\x1b[31mb\u202ec\nd"))
    a\x1b[31mb\u202ec\nd
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_make_visible, text))


@functools.lru_cache(maxsize=4096)
def _make_visible(character: str) -> str:
    if unicodedata.category(character) not in _INERT:
        return character
    return character.encode("unicode_escape").decode("ascii")


def split_inert_lines(text: str) -> list[str]:
    """The lines of a text, each inert; tabs become spaces."""
    return [make_inert(line) for line in text.expandtabs(4).replace("\r\n", "\n").split("\n")]
