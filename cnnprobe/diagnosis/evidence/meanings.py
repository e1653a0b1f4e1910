"""What the dims of each tensor of a trace stand for: the batch, the channels of a layer, height,
width, positions; carried through views, permutes, sums and products, by shapes and arguments.

What is not known has the role "": a rule judges by roles that are known.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.evidence import Evidence
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import operation, option
from cnnprobe.diagnosis.evidence.pieces import (
    Axis,
    Dim,
    Straddle,
    arrange,
    list_roles,
    measure_dim,
    name_role,
    take_whole,
)
from cnnprobe.diagnosis.evidence.questions import batch_size
from cnnprobe.operations import Effect, find
from cnnprobe.records.trace import ModuleCall, TensorInfo

Dims = tuple[Dim, ...]
MAPS = {1: ("positions",), 2: ("height", "width"), 3: ("positions", "height", "width")}
_FEW = (1, 3, 4)  # channels of an image whose last dim they are


class Meanings:
    """The dims of what each row of a trace made."""

    def __init__(self, evidence: Evidence) -> None:
        self.flow = Flow(evidence.trace)
        self.evidence = evidence
        self.batch = batch_size(evidence)
        self.straddles: dict[int, Straddle] = {}  # rows of views that mix axes
        self._count = itertools.count()
        self._made: dict[int, dict[tuple[int, ...], Dims]] = {}
        self._outside: dict[object, Dims] = {}
        for i in self.flow.primitives():
            self._note(i)

    def read(self, info: TensorInfo) -> Dims:
        """The dims of an input of a row."""
        if isinstance(info.source, int):
            known = self._made.get(info.source, {}).get(info.shape)
            return known if known is not None else self.make_unknown(info.shape)
        key = (info.source, info.shape, info.dtype)
        if key not in self._outside:
            self._outside[key] = self._read_outside(info)
        return self._outside[key]

    def read_output(self, index: int) -> Dims:
        """The dims of the first output of a row."""
        outputs = self.flow.calls[index].outputs
        known = self._made.get(index, {}).get(outputs[0].shape) if outputs else None
        return known if known is not None else ()

    def make_axis(self, role: str, size: int, maker: int | None = None) -> Axis:
        """A new axis."""
        return Axis(number=next(self._count), role=role, size=size, maker=maker)

    def make_unknown(self, shape: Sequence[int], maker: int | None = None) -> Dims:
        """Dims of which nothing is known."""
        return tuple(take_whole(self.make_axis("", size, maker)) for size in shape)

    def _read_outside(self, info: TensorInfo) -> Dims:
        is_batch = (
            self.batch is not None and info.source is None and info.shape[:1] == (self.batch,)
        )
        roles = ["batch" if is_batch and k == 0 else "" for k in range(len(info.shape))]
        if is_batch and len(info.shape) in (4, 5) and info.dtype.startswith(("float", "bfloat")):
            roles[-2:] = ("height", "width")
            if len(info.shape) == 4:
                roles[1] = "channels"
                if info.shape[3] in _FEW and min(info.shape[1:3]) > max(_FEW):
                    roles[1:] = ("height", "width", "channels")
        made = zip(roles, info.shape, strict=True)
        return tuple(take_whole(self.make_axis(role, size)) for role, size in made)

    def _note(self, index: int) -> None:
        call = self.flow.calls[index]
        info = find(call)
        if info is None or not call.outputs:
            return
        carry = _CARRYING.get(operation(call)) or _BY_EFFECT.get(info.effect)
        given = [t for t in call.inputs if not isinstance(t.source, str)] or list(call.inputs)
        found: dict[tuple[int, ...], Dims] = {}
        self._made[index] = found
        for output in call.outputs:
            dims = None
            if carry is not None and given:
                row = _Row(meanings=self, index=index, given=given[0], output=output)
                dims = carry(row)
            if dims is None or tuple(measure_dim(d) for d in dims) != output.shape:
                dims = self.make_unknown(output.shape, index)
            found.setdefault(output.shape, dims)

    def setting(self, index: int, name: str, default: object = None) -> object:
        """A setting of a row."""
        return option(self.evidence.trace, self.flow.calls[index], name, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A row, one of its outputs, and its first tensor that is no parameter."""

    meanings: Meanings
    index: int
    given: TensorInfo
    output: TensorInfo

    @property
    def call(self) -> ModuleCall:
        return self.meanings.flow.calls[self.index]

    @property
    def dims(self) -> Dims:
        return self.meanings.read(self.given)


_Carrying = Callable[[_Row], Dims | None]


def _resize(meanings: Meanings, dims: Dims, shape: tuple[int, ...]) -> Dims | None:
    """The same dims, those of another size as new axes of the same role."""
    if len(dims) != len(shape):
        return None
    return tuple(
        d if measure_dim(d) == n else take_whole(meanings.make_axis(name_role(d), n))
        for d, n in zip(dims, shape, strict=True)
    )


def _keep(row: _Row) -> Dims | None:
    return _resize(row.meanings, row.dims, row.output.shape)


def _normalise(row: _Row) -> Dims | None:
    """The same dims; dim 1, where nothing was known of it, holds channels from here on."""
    dims = _keep(row)
    if dims is None or len(dims) < 2 or name_role(dims[1]) or not dims[1]:
        return dims
    channels = take_whole(row.meanings.make_axis("channels", measure_dim(dims[1])))
    return (dims[0], channels, *dims[2:])


def _broadcast(row: _Row) -> Dims | None:
    """Each dim from the first tensor that has it and says what it is."""
    rank = len(row.output.shape)
    every = [((),) * (rank - len(t.shape)) + row.meanings.read(t) for t in row.call.inputs]
    shape, fitting = row.output.shape, [dims for dims in every if len(dims) == rank]
    return tuple(
        max((d[k] for d in fitting if measure_dim(d[k]) == shape[k]), key=_is_known, default=())
        for k in range(rank)
    )


def _is_known(dim: Dim) -> bool:
    return bool(dim) and all(piece.axis.role for piece in dim)


def _view(row: _Row) -> Dims | None:
    found = arrange(row.dims, row.output.shape)
    if isinstance(found, Straddle):
        row.meanings.straddles[row.index] = found
        return None
    return found


def list_turned(meanings: Meanings, index: int, rank: int) -> list[int] | None:
    """Which dim of the input each dim of a permute or transpose is; None where it is not known."""
    call = meanings.flow.calls[index]
    name = call.kind.rpartition(".")[2]
    order = list(range(rank))
    if name == "permute":
        dims = meanings.setting(index, "dims")
        fits = isinstance(dims, tuple) and len(dims) == rank
        return [int(d) % rank for d in dims] if fits and isinstance(dims, tuple) else None
    if name in ("movedim", "moveaxis"):
        return _move(
            order, meanings.setting(index, "source"), meanings.setting(index, "destination")
        )
    first, second = meanings.setting(index, "dim0"), meanings.setting(index, "dim1")
    if not isinstance(first, int) or not isinstance(second, int):
        if name not in ("t", "T", "mT") or rank < 2 or (name != "mT" and rank > 2):
            return None
        first, second = -2, -1
    order[first], order[second] = order[second], order[first]
    return order


def _move(order: list[int], source: object, destination: object) -> list[int] | None:
    if not isinstance(source, int) or not isinstance(destination, int):
        return None
    moved = order.pop(source)
    order.insert(destination % (len(order) + 1), moved)
    return order


def _turn(row: _Row) -> Dims | None:
    dims = row.dims
    order = list_turned(row.meanings, row.index, len(dims))
    return None if order is None else tuple(dims[k] for k in order)


def _index(row: _Row) -> Dims | None:
    """Basic indexing; what is indexed by tensors or lists is not known."""
    if len(row.call.inputs) > 1:
        return None
    dims: list[Dim] = list(row.dims)
    made: list[Dim] = []
    entries = list(_list_entries(row.call))
    whole = len(dims) - sum(e is not None and e != "Ellipsis" for e in entries)
    entries += [] if "Ellipsis" in entries else ["Ellipsis"]
    for entry in entries:
        if entry is None:
            made.append(())
        elif entry == "Ellipsis":
            made += dims[:whole]
            del dims[:whole]
        elif dims:
            dim = dims.pop(0)
            made += [] if isinstance(entry, int) else [dim]
    return _resize(row.meanings, tuple(made), row.output.shape)


def list_indexed(call: ModuleCall, rank: int) -> tuple[int, ...]:
    """The dims of the input that an index takes away, each by an integer."""
    entries = [e for e in _list_entries(call) if e is not None]
    if "Ellipsis" in entries:
        place = entries.index("Ellipsis")
        entries[place : place + 1] = [""] * (rank - len(entries) + 1)
    return tuple(k for k, entry in enumerate(entries) if type(entry) is int)


def _list_entries(call: ModuleCall) -> Iterator[object]:
    """The parts of the index, in order."""
    if "[1]" in call.arguments:
        yield call.arguments["[1]"]
    yield from (v for k, v in call.arguments.items() if k.startswith("[1]["))


def _select(row: _Row) -> Dims | None:
    dims = row.dims
    if len(row.output.shape) == len(dims):
        return _resize(row.meanings, dims, row.output.shape)
    dim = row.meanings.setting(row.index, "dim", 0)
    return drop_dims(dims, (dim,)) if isinstance(dim, int) else None


def drop_dims(dims: Dims, dropped: Sequence[int]) -> Dims:
    """The dims without those of these numbers, which may be counted from the end."""
    gone = {int(d) % len(dims) for d in dropped} if dims else set()
    return tuple(d for k, d in enumerate(dims) if k not in gone)


def list_reduced(meanings: Meanings, index: int, rank: int) -> tuple[int, ...]:
    """The dims that a reduction runs over, 0 or more each."""
    dim = meanings.setting(index, "dim")
    if isinstance(dim, int):
        return (dim % rank,) if rank else ()
    chosen = dim if isinstance(dim, tuple | list) else range(rank)
    return tuple(int(d) % rank for d in chosen) if rank else ()


def _reduce(row: _Row) -> Dims | None:
    dims = row.dims
    reduced = list_reduced(row.meanings, row.index, len(dims))
    if len(row.output.shape) == len(dims):
        return tuple(() if k in reduced else d for k, d in enumerate(dims))
    return drop_dims(dims, reduced)


def _join(row: _Row) -> Dims | None:
    dims = list(row.dims)
    if len(row.output.shape) == len(dims) + 1:
        dim = row.meanings.setting(row.index, "dim", 0)
        place = int(dim) % len(row.output.shape) if isinstance(dim, int) else 0
        dims.insert(
            place, take_whole(row.meanings.make_axis("", row.output.shape[place], row.index))
        )
    return _resize(row.meanings, tuple(dims), row.output.shape)


def _slide(row: _Row) -> Dims | None:
    """Convolutions and poolings of (N, C, ...)."""
    rank = _count_places(row.call)
    dims = row.dims
    if rank is None or len(dims) != rank + 2 or len(row.output.shape) != rank + 2:
        return None
    is_conv = "conv" in operation(row.call)
    channels = take_whole(row.meanings.make_axis("channels", row.output.shape[1], row.index))
    places = (
        take_whole(
            row.meanings.make_axis(name_role(dims[2 + k]) or MAPS[rank][k], row.output.shape[2 + k])
        )
        for k in range(rank)
    )
    return (dims[0], channels if is_conv else dims[1], *places)


def _count_places(call: ModuleCall) -> int | None:
    """How many dims a window has: 2 of "Conv2d"."""
    digits = [c for c in call.kind.rpartition(".")[2] if c in "123"]
    return int(digits[0]) if digits else None


def _project(row: _Row) -> Dims | None:
    """A product with weights along the last dim."""
    dims = row.dims
    return (
        *dims[:-1],
        take_whole(row.meanings.make_axis("channels", row.output.shape[-1], row.index)),
    )


def _multiply(row: _Row) -> Dims | None:
    call = row.call
    if len(call.inputs) != 2 or any(len(t.shape) != len(row.output.shape) for t in call.inputs):
        return None
    first, second = (row.meanings.read(t) for t in call.inputs)
    return (*first[:-1], second[-1])


def _attend(row: _Row) -> Dims | None:
    dims = row.dims
    if len(dims) != len(row.output.shape) or row.output.path not in ("", "[0]"):
        return None
    return (
        *dims[:-1],
        take_whole(row.meanings.make_axis("channels", row.output.shape[-1], row.index)),
    )


def _look_up(row: _Row) -> Dims | None:
    dims = [
        d if name_role(d) else take_whole(row.meanings.make_axis("positions", measure_dim(d)))
        for d in row.dims
    ]
    return (*dims, take_whole(row.meanings.make_axis("channels", row.output.shape[-1], row.index)))


def _recur(row: _Row) -> Dims | None:
    """Steps that are not known otherwise are positions, as the layer reads them so."""
    dims = list(row.dims)
    features = take_whole(row.meanings.make_axis("channels", row.output.shape[-1], row.index))
    if len(dims) != 3 or len(row.output.shape) != 3:
        return None
    steps = 1 if row.meanings.setting(row.index, "batch_first") is True else 0
    if row.output.path == "[0]":
        if not all(list_roles(dims[steps])):
            dims[steps] = take_whole(row.meanings.make_axis("positions", row.output.shape[steps]))
        return (*dims[:2], features)
    states = take_whole(row.meanings.make_axis("", row.output.shape[0], row.index))
    return (states, dims[1 - steps], features)


def _shuffle(row: _Row) -> Dims | None:
    dims = row.dims
    if len(dims) != 4 or row.output.shape == row.given.shape:
        return _resize(row.meanings, dims, row.output.shape)
    roles = ("channels", *MAPS[2])
    made = zip(roles, row.output.shape[1:], strict=True)
    return (dims[0], *(take_whole(row.meanings.make_axis(role, n, row.index)) for role, n in made))


_CARRYING: dict[str, _Carrying] = {
    "batch_norm": _normalise,
    "instance_norm": _normalise,
    "group_norm": _normalise,
    "getitem": _index,
    "linear": _project,
    "matmul": _multiply,
    "attention": _attend,
    "embedding": _look_up,
}
_BY_EFFECT: dict[Effect, _Carrying] = {
    "keeps": _keep,
    "elementwise": _keep,
    "scans": _keep,
    "pads": _keep,
    "resizes": _keep,
    "broadcasts": _broadcast,
    "reshapes": _view,
    "turns": _turn,
    "selects": _select,
    "reduces": _reduce,
    "joins": _join,
    "windows": _slide,
    "rearranges": _shuffle,
    "recurs": _recur,
}
