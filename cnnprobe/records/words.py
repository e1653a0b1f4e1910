"""Counts in words."""


def format_counted(number: int, noun: str, plural: str = "") -> str:
    """A count with its noun, singular or plural.

    >>> format_counted(1, "call"), format_counted(1_147, "call"), format_counted(2, "box", "boxes")
    ('1 call', '1,147 calls', '2 boxes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
