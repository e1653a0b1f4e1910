"""Where the parameters, the work and the memory are: each whole as the sum of a few parts of the
model.
"""

from collections.abc import Callable, Iterator, Sequence

from cnnprobe.document.blocks import Share, Shares, Unit
from cnnprobe.document.layout.entries import Entry
from cnnprobe.document.layout.tables import make_key

_WHOLES: tuple[tuple[str, Unit, Callable[[Entry], int]], ...] = (
    ("parameters", "si", lambda row: row.parameters),
    ("MACs", "si", lambda row: row.macs or 0),
    ("activations", "bytes", lambda row: row.nbytes),
)
_OPENED = 0.8  # a part that is more than this of the whole is shown by its own parts
_MOST = 12  # parts; with more of them none is opened any further


def build_shares(rows: Sequence[Entry]) -> Iterator[Shares]:
    """For each of parameters, MACs and activations: the parts of the model that it lies in. A whole
    of 0 is left out.
    """
    below: list[list[int]] = [[] for _ in rows]
    above: list[int] = []
    for i, row in enumerate(rows):
        del above[row.depth :]
        if above:
            below[above[-1]].append(i)
        above.append(i)
    names = _list_names(rows)
    for title, unit, number in _WHOLES:
        parts = _split_parts(rows, below, number)
        if any(number(rows[i]) for i in parts):
            shown = tuple(
                Share(name=names[i], number=number(rows[i]), key=make_key(rows[i]))
                for i in parts
                if number(rows[i])
            )
            yield Shares(title=title, unit=unit, parts=shown)


def _split_parts(
    rows: Sequence[Entry], below: Sequence[Sequence[int]], number: Callable[[Entry], int]
) -> list[int]:
    """The top rows, of which one that is nearly all gives way to the rows below it, again and
    again.
    """
    parts = [i for i, row in enumerate(rows) if row.depth == 0]
    whole = sum(number(rows[i]) for i in parts)
    while len(parts) <= _MOST:
        largest = next((i for i in parts if number(rows[i]) > _OPENED * whole and below[i]), None)
        if largest is None or whole == 0:
            break
        at = parts.index(largest)
        parts[at : at + 1] = below[largest]
    return parts


def _list_names(rows: Sequence[Entry]) -> list[str]:
    """The path of each row, without the root's name."""
    names: list[str] = []
    path: list[str] = []
    for row in rows:
        path = [*path[: row.depth], row.name]
        names.append(".".join(path[1:]) or row.name)
    return names
