"""Constructor arguments as they stand on a command line, `name=value`, as Python values."""

import ast
from collections.abc import Iterable

from cnnprobe.errors import UsageError

_WORDS = {"true": True, "false": False, "none": None}


def parse_arguments(items: Iterable[str]) -> dict[str, object]:
    """`name=value` items as a mapping: a value is a Python literal, true, false or none in any
    case, or else the text itself.

    Raises:
        UsageError: an item without `=`, a name that is no Python name, or a name given twice.

    >>> parse_arguments(["classes=10", "widths=[8, 16]", "bias=false", "norm=batch"])
    {'classes': 10, 'widths': [8, 16], 'bias': False, 'norm': 'batch'}
    """
    arguments: dict[str, object] = {}
    for item in items:
        name, equals, text = item.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise UsageError(
                f"{item!r} is not a constructor argument",
                where=f"--arg {item}",
                fix="write --arg name=value, as in --arg num_classes=10",
            )
        if name in arguments:
            raise UsageError(
                f"the constructor argument {name!r} is given twice",
                where=f"--arg {item}",
                fix="give it once",
            )
        arguments[name] = _parse_value(text.strip())
    return arguments


def _parse_value(text: str) -> object:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (
        ValueError,
        SyntaxError,
        MemoryError,
        RecursionError,
    ):  # the last two: a literal nested too deep
        return text
