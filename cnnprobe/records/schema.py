"""Our frozen dataclasses to plain JSON-able data and back, led by their type hints; no torch.

What is written is what is read: `read_plain(type(x), to_plain(x)) == x`. Three things are said in
JSON's own terms: a tuple is a list, a float that is not finite is the string "NaN", "Infinity" or
"-Infinity" (and becomes a float again where a float is expected), and of several dataclasses in one
union the one that is meant is named by the key "type". A field of type `object` holds any value:
what JSON has is kept (lists come back as tuples), anything else becomes its repr.
"""

import dataclasses
import enum
import functools
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnprobe.errors import ProbeError

SCHEMA_VERSION = 1  # rises with every field that is added, renamed or taken away
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_DEEPEST = 20  # levels of a value of type `object`; deeper ones, and cyclic ones, become their repr
_LONGEST = 1000  # characters of a repr
TAG = "type"

Write = Callable[[Any], Any]


def to_plain(value: object) -> Any:
    """Plain dicts, lists, strings, numbers, booleans and None that say what `value` (a dataclass,
    or a container of them) says.

    >>> to_plain((1.5, float("inf")))
    [1.5, 'Infinity']
    """
    return _make_plain(value, 0)


def to_text(kind: str, fields: Mapping[str, Any]) -> str:
    r"""The plain `fields` as one JSON object that names its `kind` and the schema version: strict
    (no bare NaN) and ASCII only.

    >>> to_text("Answer", {"value": 42})
    '{"schema_version": 1, "type": "Answer", "value": 42}\n'
    """
    return (
        json.dumps({"schema_version": SCHEMA_VERSION, TAG: kind, **fields}, allow_nan=False) + "\n"
    )


def parse(text: str, *, expected: str, where: str) -> dict[str, Any]:
    """The fields in a JSON text that `to_text` has written of the kind `expected`; see
    `parse_kind`.
    """
    return parse_kind(text, expected=(expected,), where=where)[1]


def parse_kind(text: str, *, expected: Sequence[str], where: str) -> tuple[str, dict[str, Any]]:
    """The kind and the fields in a JSON text that `to_text` has written of one of the kinds.

    Raises:
        ProbeError: it is no JSON, not of this type, or of a newer schema than this version reads.
    """
    try:
        data = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        fix = "it may have been cut off while it was written; write it again"
        raise ProbeError(
            f"this is not a complete JSON document: {error}", where=where, fix=fix
        ) from error
    if (
        not isinstance(data, dict)
        or data.get(TAG) not in expected
        or type(data.get("schema_version")) is not int
    ):
        fix = (
            f'give a file written by cnnprobe; it begins with "schema_version" and "{TAG}": '
            f'"{expected[0]}"'
        )
        raise ProbeError(f"this JSON is not a cnnprobe {expected[0]}", where=where, fix=fix)
    if data["schema_version"] != SCHEMA_VERSION:
        newer = data["schema_version"] > SCHEMA_VERSION
        fix = "update cnnprobe" if newer else "write the file again with this version of cnnprobe"
        what = (
            f"it has schema version {data['schema_version']}, this cnnprobe reads version "
            f"{SCHEMA_VERSION}"
        )
        raise ProbeError(what, where=where, fix=fix)
    fields = {key: value for key, value in data.items() if key not in ("schema_version", TAG)}
    return str(data[TAG]), fields


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


# ---------------------------------------------------------------- writing


def _make_plain(value: Any, level: int) -> Any:
    """A value whose type nothing is known about."""
    simple = _write_scalar(value)
    if simple is not NotImplemented:
        return simple
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _make_writer(type(value))(value)
    if level >= _DEEPEST:
        return show(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple is an object too
        return {
            name: _make_plain(item, level + 1)
            for name, item in zip(value._fields, value, strict=True)
        }
    if isinstance(value, list | tuple):
        return [_make_plain(item, level + 1) for item in value]
    if isinstance(value, Mapping):
        return {
            key if type(key) is str else show(key): _make_plain(item, level + 1)
            for key, item in value.items()
        }
    return show(value)


def _write_scalar(value: Any) -> Any:
    if value is None or type(value) in (str, bool, int):
        return value
    if isinstance(value, enum.Enum):
        return _write_scalar(value.value)
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else _name_number(number)
    if isinstance(value, str):
        return str.__str__(value)
    return int(value) if isinstance(value, int) else NotImplemented


def _name_number(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def show(value: object) -> str:
    """Its repr, whatever that does."""
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


@functools.cache
def _make_writer(kind: type) -> Write:
    """How a dataclass is written; a field whose type leaves open which dataclass it holds gets a
    tag.
    """
    fields = [(name, _make_value_writer(hint)) for name, hint in list_fields(kind).items()]
    return lambda value: {name: write(getattr(value, name)) for name, write in fields}


def _make_value_writer(hint: Any) -> Write:
    if hint in (int, str, bool):
        return lambda value: _make_plain(value, 0)
    if (
        typing.get_origin(hint) is tuple
        and len(typing.get_args(hint)) == 2
        and typing.get_args(hint)[1] is ...
    ):
        write = _make_value_writer(typing.get_args(hint)[0])
        return lambda value: [write(item) for item in value]
    if len(_find_dataclasses(hint)) > 1:
        return _tag
    return lambda value: _make_plain(value, 0)


def _tag(value: Any) -> Any:
    plain = _make_plain(value, 0)
    return {TAG: type(value).__name__, **plain} if dataclasses.is_dataclass(value) else plain


def _find_dataclasses(hint: Any) -> list[type]:
    return [
        member
        for member in typing.get_args(hint)
        if isinstance(member, type) and dataclasses.is_dataclass(member)
    ]


@functools.cache
def list_fields(kind: type) -> dict[str, Any]:
    """The fields of a dataclass or a named tuple, with their type hints."""
    hints = typing.get_type_hints(kind)
    if not dataclasses.is_dataclass(kind):  # a named tuple
        return hints
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}
