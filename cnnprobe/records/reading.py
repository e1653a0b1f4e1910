"""Reads plain data back as the frozen records that it was, and says where it does not fit."""

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnprobe.errors import ProbeError
from cnnprobe.records.schema import NOT_FINITE, TAG, list_fields, show

Read = Callable[[Any], Any]


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


class _MisfitError(Exception):
    """What does not fit; the path to it grows from the inside out while the error rises."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[str] = []


def _describe_misfit(expected: str, data: object) -> _MisfitError:
    shown = show(data)
    return _MisfitError(
        f"expected {expected}, got {shown if len(shown) <= 60 else shown[:59] + '…'}"
    )


@functools.cache
def _make_reader(hint: Any) -> Read:
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint)
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return _read_dataclass(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return functools.partial(_read_member, hint)
    if hint in SCALARS:
        return SCALARS[hint]
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
            readers.update({name: _make_reader(hint) for name, hint in list_fields(kind).items()})
        for name in needed:
            if name not in data:
                raise _MisfitError(f"the field {name!r} of {kind.__name__} is missing")
        values: dict[str, Any] = {}
        for name, item in data.items():
            if name not in readers:
                raise _MisfitError(f"{kind.__name__} has no field {show(name)[:60]}")
            try:
                values[name] = readers[name](item)
            except _MisfitError as misfit:
                misfit.path.append(f".{name}")
                raise
        return kind(**values)

    return read


def _list_needed(kind: Any) -> list[str]:
    if not dataclasses.is_dataclass(kind):
        return [name for name in list_fields(kind) if name not in kind._field_defaults]
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
    if not isinstance(data.get(TAG), str) or data[TAG] not in kinds:
        raise _describe_misfit(f'an object whose "{TAG}" is one of {", ".join(kinds)}', data)
    return _make_reader(kinds[data[TAG]])({key: item for key, item in data.items() if key != TAG})


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
    if type(data) is str and data in NOT_FINITE:
        return NOT_FINITE[data]
    raise _describe_misfit("a number", data)


def _read_anything(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(_read_anything(item) for item in data)
    return (
        {key: _read_anything(item) for key, item in data.items()}
        if isinstance(data, dict)
        else data
    )


SCALARS: Mapping[Any, Read] = {
    int: _expect_exactly(int, "an integer"),
    str: _expect_exactly(str, "a string"),
    bool: _expect_exactly(bool, "true or false"),
    type(None): _expect_exactly(type(None), "null"),
    float: _read_float,
    object: _read_anything,
    Any: _read_anything,
}
