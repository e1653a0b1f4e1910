"""Counts in words, and numbers beside each other."""

DIGITS = 4  # of a measured number, as a rule


def format_counted(number: int, noun: str, plural: str = "") -> str:
    """A count with its noun, singular or plural.

    >>> format_counted(1, "call"), format_counted(1_147, "call"), format_counted(2, "box", "boxes")
    ('1 call', '1,147 calls', '2 boxes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def count_digits(*numbers: float) -> int:
    """How many significant digits tell numbers apart: 4, up to 6 where that is needed, and 4 again
    where they are the same but for rounding.

    >>> count_digits(2.3, 0.41), count_digits(2.3021, 2.3019), count_digits(2.3, 2.3000001)
    (4, 5, 4)
    """
    apart = set(numbers)
    choices = range(DIGITS, DIGITS + 3)
    return next((n for n in choices if len({f"{x:.{n}g}" for x in apart}) == len(apart)), DIGITS)
