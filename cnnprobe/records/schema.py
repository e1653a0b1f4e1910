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
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnprobe.errors import ProbeError

SCHEMA_VERSION = 1  # rises with every field that is added, renamed or taken away
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_DEEPEST = 20  # levels of a value of type `object`; deeper ones, and cyclic ones, become their repr
_LONGEST = 1000  # characters of a repr
_TAG = "type"

Write = Callable[[Any], Any]
Read = Callable[[Any], Any]


def to_plain(value: object) -> Any:
    """Plain dicts, lists, strings, numbers, booleans and None that say what `value` (a dataclass,
    or a container of them) says.

    >>> to_plain((1.5, float("inf")))
    [1.5, 'Infinity']
    """
    return _make_plain(value, 0)


def read_plain(kind: Any, data: object) -> Any:
    """The value of type `kind` (a dataclass, or a hint such as `tuple[Finding, ...]`) that `data`
    describes.

    Raises:
        ProbeError: `data` does not fit; `where` is the path to the first thing that does not.

    >>> read_plain(tuple[float, ...], [1, "NaN"])
    (1.0, nan)
    """
    try:
        return _make_reader(kind)(data)
    except _MisfitError as misfit:
        where = getattr(kind, "__name__", str(kind)) + "".join(reversed(misfit.path))
        raise ProbeError(
            misfit.what,
            where=where,
            fix="write the file again with cnnprobe; it was changed or damaged",
        ) from misfit


def to_text(kind: str, fields: Mapping[str, Any]) -> str:
    r"""The plain `fields` as one JSON object that names its `kind` and the schema version: strict
    (no bare NaN) and ASCII only.

    >>> to_text("Answer", {"value": 42})
    '{"schema_version": 1, "type": "Answer", "value": 42}\n'
    """
    return (
        json.dumps({"schema_version": SCHEMA_VERSION, _TAG: kind, **fields}, allow_nan=False) + "\n"
    )


def parse(text: str, *, expected: str, where: str) -> dict[str, Any]:
    """The fields in a JSON text that `to_text` has written of the kind `expected`.

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
        or data.get(_TAG) != expected
        or type(data.get("schema_version")) is not int
    ):
        fix = (
            f'give a file written by cnnprobe; it begins with "schema_version" and "{_TAG}": '
            f'"{expected}"'
        )
        raise ProbeError(f"this JSON is not a cnnprobe {expected}", where=where, fix=fix)
    if data["schema_version"] != SCHEMA_VERSION:
        newer = data["schema_version"] > SCHEMA_VERSION
        fix = "update cnnprobe" if newer else "write the file again with this version of cnnprobe"
        what = (
            f"it has schema version {data['schema_version']}, this cnnprobe reads version "
            f"{SCHEMA_VERSION}"
        )
        raise ProbeError(what, where=where, fix=fix)
    return {key: value for key, value in data.items() if key not in ("schema_version", _TAG)}


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


class _MisfitError(Exception):
    """What does not fit; the path to it grows from the inside out while the error rises."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[str] = []


def _describe_misfit(expected: str, data: object) -> _MisfitError:
    shown = _show(data)
    return _MisfitError(
        f"expected {expected}, got {shown if len(shown) <= 60 else shown[:59] + '…'}"
    )


# ---------------------------------------------------------------- writing


def _make_plain(value: Any, level: int) -> Any:
    """A value whose type nothing is known about."""
    simple = _write_scalar(value)
    if simple is not NotImplemented:
        return simple
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _make_writer(type(value))(value)
    if level >= _DEEPEST:
        return _show(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple is an object too
        return {
            name: _make_plain(item, level + 1)
            for name, item in zip(value._fields, value, strict=True)
        }
    if isinstance(value, list | tuple):
        return [_make_plain(item, level + 1) for item in value]
    if isinstance(value, Mapping):
        return {
            key if type(key) is str else _show(key): _make_plain(item, level + 1)
            for key, item in value.items()
        }
    return _show(value)


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


def _show(value: object) -> str:
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
    fields = [(name, _make_value_writer(hint)) for name, hint in _list_fields(kind).items()]
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
    return {_TAG: type(value).__name__, **plain} if dataclasses.is_dataclass(value) else plain


def _find_dataclasses(hint: Any) -> list[type]:
    return [
        member
        for member in typing.get_args(hint)
        if isinstance(member, type) and dataclasses.is_dataclass(member)
    ]


@functools.cache
def _list_fields(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    if not dataclasses.is_dataclass(kind):  # a named tuple
        return hints
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


# ---------------------------------------------------------------- reading


@functools.cache
def _make_reader(hint: Any) -> Read:
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint)
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return _read_dataclass(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return functools.partial(_read_member, hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _read_union(arguments)
    if origin is tuple:
        return _read_tuple(arguments)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _read_mapping(_make_reader(arguments[1]))
    if origin is typing.Literal:
        return functools.partial(_read_literal, arguments)
    raise TypeError(f"cnnprobe.records.schema cannot read the type {hint}")


def _read_dataclass(kind: Any) -> Read:
    readers: dict[str, Read] = {}  # filled on first use, so that a dataclass may hold itself
    needed = _list_needed(kind)

    def read(data: Any) -> Any:
        if not isinstance(data, dict):
            raise _describe_misfit(f"an object with the fields of {kind.__name__}", data)
        if not readers:
            readers.update({name: _make_reader(hint) for name, hint in _list_fields(kind).items()})
        for name in needed:
            if name not in data:
                raise _MisfitError(f"the field {name!r} of {kind.__name__} is missing")
        values: dict[str, Any] = {}
        for name, item in data.items():
            if name not in readers:
                raise _MisfitError(f"{kind.__name__} has no field {_show(name)[:60]}")
            try:
                values[name] = readers[name](item)
            except _MisfitError as misfit:
                misfit.path.append(f".{name}")
                raise
        return kind(**values)

    return read


def _list_needed(kind: Any) -> list[str]:
    if not dataclasses.is_dataclass(kind):
        return [name for name in _list_fields(kind) if name not in kind._field_defaults]
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]


def _read_tuple(arguments: tuple[Any, ...]) -> Read:
    endless = len(arguments) == 2 and arguments[1] is ...
    readers = (
        [_make_reader(arguments[0])]
        if endless
        else [_make_reader(argument) for argument in arguments]
    )

    def read(data: Any) -> Any:
        if not isinstance(data, list):
            raise _describe_misfit("a list", data)
        if not endless and len(data) != len(readers):
            raise _describe_misfit(f"a list of {len(readers)}", data)
        values = []
        for i, item in enumerate(data):
            try:
                values.append(readers[0 if endless else i](item))
            except _MisfitError as misfit:
                misfit.path.append(f"[{i}]")
                raise
        return tuple(values)

    return read


def _read_mapping(read_item: Read) -> Read:
    def read(data: Any) -> Any:
        if not isinstance(data, dict):
            raise _describe_misfit("an object", data)
        values = {}
        for key, item in data.items():
            try:
                values[key] = read_item(item)
            except _MisfitError as misfit:
                misfit.path.append(f"[{key!r}]")
                raise
        return values

    return read


def _read_union(members: tuple[Any, ...]) -> Read:
    tagged = {m.__name__: m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)}
    if len(tagged) > 1:
        return functools.partial(
            _read_tagged, tagged, [_make_reader(m) for m in members if m not in tagged.values()]
        )
    # Exact types first: 1 is an int before it is a float, and "NaN" is a float only where no string
    # is expected.
    ordered = sorted(members, key=lambda m: m is float or m is object)
    readers = [_make_reader(member) for member in ordered if member is not type(None)]
    plain = frozenset(member for member in members if member in (int, str, bool, float, type(None)))
    expected = " or ".join(getattr(member, "__name__", str(member)) for member in members)

    def read(data: Any) -> Any:
        if type(data) in plain:
            return data
        return readers[0](data) if len(readers) == 1 else _try_readers(readers, data, expected)

    return read


def _read_tagged(kinds: Mapping[str, type], others: Sequence[Read], data: Any) -> Any:
    if not isinstance(data, dict):
        return _try_readers(others, data, " or ".join(kinds))
    if not isinstance(data.get(_TAG), str) or data[_TAG] not in kinds:
        raise _describe_misfit(f'an object whose "{_TAG}" is one of {", ".join(kinds)}', data)
    return _make_reader(kinds[data[_TAG]])({key: item for key, item in data.items() if key != _TAG})


def _try_readers(readers: Sequence[Read], data: Any, expected: str) -> Any:
    inner: _MisfitError | None = None
    for read in readers:
        try:
            return read(data)
        except _MisfitError as misfit:
            inner = misfit if misfit.path else inner
    raise inner or _describe_misfit(expected, data)


def _read_member(kind: type[enum.Enum], data: Any) -> Any:
    try:
        return kind(data)
    except ValueError as error:
        raise _describe_misfit("one of " + ", ".join(repr(m.value) for m in kind), data) from error


def _read_literal(allowed: tuple[Any, ...], data: Any) -> Any:
    if data not in allowed:
        raise _describe_misfit("one of " + ", ".join(map(repr, allowed)), data)
    return data


def _expect_exactly(kind: type, name: str) -> Read:
    def read(data: Any) -> Any:
        if type(data) is not kind:
            raise _describe_misfit(name, data)
        return data

    return read


def _read_float(data: Any) -> float:
    if type(data) is float:
        return data
    if type(data) is int:
        try:
            return float(data)
        except OverflowError as error:
            raise _describe_misfit("a float", data) from error
    if type(data) is str and data in _NOT_FINITE:
        return _NOT_FINITE[data]
    raise _describe_misfit("a number", data)


def _read_anything(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(_read_anything(item) for item in data)
    return (
        {key: _read_anything(item) for key, item in data.items()}
        if isinstance(data, dict)
        else data
    )


_SCALARS: Mapping[Any, Read] = {
    int: _expect_exactly(int, "an integer"),
    str: _expect_exactly(str, "a string"),
    bool: _expect_exactly(bool, "true or false"),
    type(None): _expect_exactly(type(None), "null"),
    float: _read_float,
    object: _read_anything,
    Any: _read_anything,
}
