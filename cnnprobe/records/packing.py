"""The numbers of one observed step as a short text, to the last bit; no torch.

The columns one after the other as little-endian doubles, compressed, in base64: digits that are
exact take twenty characters a number.
"""

import base64
import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnprobe.records import reading, schema
from cnnprobe.records.ledger import COLUMNS, Rows
from cnnprobe.records.trace import Histogram


def pack_rows(rows: Rows) -> str:
    """A text of the rows, shape (slots, COLUMNS).

    >>> import numpy as np
    >>> rows = np.arange(20.0).reshape(2, 10)
    >>> bool((unpack_rows(pack_rows(rows), COLUMNS, most=2) == rows).all())
    True
    """
    data = np.ascontiguousarray(rows.T, dtype="<f8").tobytes()
    return base64.b64encode(zlib.compress(data)).decode()


def unpack_rows(text: str, columns: Sequence[str], *, most: int) -> Rows:
    """The rows in a text; NaN in a column that it does not have.

    Args:
        text: of `pack_rows`.
        columns: that it has.
        most: rows.

    Raises:
        ValueError: it is damaged, or has more rows.
    """
    size = 8 * most * len(columns)
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(base64.b64decode(text, validate=True), size + 1)
    except zlib.error as error:
        raise ValueError(f"the packed numbers are damaged: {error}") from error
    if len(data) > size or not inflate.eof:
        raise ValueError("the packed numbers are of more layers than were named, or cut off")
    found = np.frombuffer(data, dtype="<f8").reshape(len(columns), -1)
    rows = np.full((found.shape[1], len(COLUMNS)), np.nan)
    for name, numbers in zip(columns, found, strict=True):
        if name in COLUMNS:
            rows[:, COLUMNS.index(name)] = numbers
    return rows


def pack_histograms(histograms: Mapping[int, Histogram]) -> list[Any]:
    """The spread of each slot without the names of its fields."""
    return [[k, h.lowest, h.negative, h.positive] for k, h in histograms.items()]


def unpack_histogram(said: Any) -> tuple[int, Histogram]:
    """A slot and its spread; also as older logs have it, with names."""
    slot, *parts = said
    fields = parts[0] if len(parts) == 1 else dict(zip(_FIELDS, parts, strict=True))
    return int(slot), reading.read_plain(Histogram, fields)


_FIELDS = ("lowest", "negative", "positive")


def write_briefly(value: Any) -> dict[str, Any]:
    """The plain fields of a dataclass that are not what they are by default."""
    plain = schema.to_plain(value)
    for each in dataclasses.fields(value):
        known = each.default
        if each.default_factory is not dataclasses.MISSING:
            known = each.default_factory()
        if known is not dataclasses.MISSING and getattr(value, each.name) == known:
            del plain[each.name]
    return dict(plain)
