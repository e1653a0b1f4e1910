"""Views, sums and convolutions in which the dims of a trace do not mean what their reader takes
them for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.axes import find_order
from cnnprobe.diagnosis.evidence.flow import Flow, describe
from cnnprobe.diagnosis.evidence.groups import operation
from cnnprobe.diagnosis.evidence.meanings import Dims, Meanings
from cnnprobe.diagnosis.evidence.pieces import Dim, Piece, find_cut_across, list_roles, measure_dim

PLACES = frozenset({"height", "width", "positions"})
_VIEWS = frozenset({"view", "reshape", "flatten", "unflatten"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scramble:
    """A row whose result mixes dims, and what was meant."""

    index: int
    kind: str
    message: str
    fix: str


SPLIT_FIRST = "split each dim into its parts first, then permute them into place, then merge them"


def find_scrambles(meanings: Meanings) -> Iterator[Scramble]:
    """Every such row of the model's own, in order."""
    flow = meanings.flow
    for i in flow.primitives():
        if flow.owner(i) is None or not flow.calls[i].inputs or not flow.calls[i].outputs:
            continue
        kind = operation(flow.calls[i])
        if kind in _VIEWS:
            found = _find_in_view(meanings, i)
        elif kind in ("conv", "conv_transpose"):
            found = _find_channels_in_places(meanings, i)
        elif kind == "add":
            found = _find_shuffled_sum(meanings, i)
        else:
            found = None
        if found is not None:
            yield found


def _find_in_view(meanings: Meanings, index: int) -> Scramble | None:
    found = _find_straddle(meanings, index) or _find_cut(meanings, index)
    found = found or _find_tiles(meanings, index) or _find_cut_end(meanings, index)
    return found or _find_rejoined(meanings, index)


def name_piece(piece: Piece, flow: Flow) -> str:
    """What an axis is, in words: "the channels of 'conv' (Conv2d)", "the height"."""
    axis = piece.axis
    if axis.role == "channels" and axis.maker is not None:
        what = "channels" if "conv" in operation(flow.calls[axis.maker]) else "features"
        return f"the {what} of {describe(flow.calls[axis.maker])}"
    return f"the {axis.role}" if axis.role else f"a dim of {axis.size}"


def _say_view(meanings: Meanings, index: int) -> str:
    call = meanings.flow.calls[index]
    return f"{describe(call)} turns {call.inputs[0].shape} into {call.outputs[0].shape}"


def _find_straddle(meanings: Meanings, index: int) -> Scramble | None:
    """A dim that begins or ends within an axis."""
    straddle = meanings.straddles.get(index)
    if straddle is None:
        return None
    call = meanings.flow.calls[index]
    before, after = call.inputs[0].shape, call.outputs[0].shape
    is_known = _is_mix(straddle.pieces)
    order = find_order(before, after) if len(before) >= 4 else None
    if order is None and not is_known:
        return None
    mixed = "the dims change places, but the values stay in their order"
    if is_known:
        first, last = (name_piece(straddle.pieces[k], meanings.flow) for k in (0, -1))
        mixed = f"a dim of {straddle.size} holds a part of {first}, and mixes it with {last}"
    return Scramble(
        index=index,
        kind="straddling",
        message=f"{_say_view(meanings, index)}: {mixed}",
        fix=SPLIT_FIRST if order is None else f"permute{order} first, then reshape",
    )


def _is_mix(pieces: Sequence[Piece]) -> bool:
    """Whether the channels of a layer, or of an image, are among several axes."""
    channels = [p for p in pieces if p.axis.role == "channels"]
    others = [p for p in pieces if p.axis.role != "channels"]
    are_of_layer = any(p.axis.maker is not None for p in channels)
    return bool(channels and others) and (are_of_layer or all(p.axis.role for p in others))


def _find_cut(meanings: Meanings, index: int) -> Scramble | None:
    """An axis whose outer part is merged with the dim before it, its inner part with the one behind
    it.
    """
    found = find_cut_across(meanings.read_output(index))
    if found is None or not found[1].role:
        return None
    place, axis = found
    dims = meanings.read_output(index)
    before, after = dims[place][0], dims[place + 1][-1]
    if not before.axis.role or not after.axis.role:
        return None
    names = [name_piece(piece, meanings.flow) for piece in (before, after)]
    whole = name_piece(dims[place][-1], meanings.flow)
    return Scramble(
        index=index,
        kind="cut-across",
        message=(
            f"{_say_view(meanings, index)}: dim {place} holds {names[0]} and a part of {whole}, "
            f"dim {place + 1} the other part of it and {names[1]}"
        ),
        fix=_name_fix(meanings, index, axis.role),
    )


def _name_fix(meanings: Meanings, index: int, role: str) -> str:
    """F.pixel_shuffle where channels become rows and columns."""
    call = meanings.flow.calls[index]
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if len(before) == len(after) == 4 and role == "height":
        by = after[2] // before[2]
        if by > 1 and after[2:] == (before[2] * by, before[3] * by):
            return f"F.pixel_shuffle(x, {by})"
    return SPLIT_FIRST


def _find_tiles(meanings: Meanings, index: int) -> Scramble | None:
    """Rows and columns of which the channels are the outer part: small maps beside each other."""
    dims = meanings.read_output(index)
    if len(dims) != 4 or not all(_is_tiled(dim) for dim in dims[2:]):
        return None
    parts = [dims[k][0].size for k in (2, 3)]
    return Scramble(
        index=index,
        kind="tiles",
        message=(
            f"{_say_view(meanings, index)}: it puts {parts[0]} x {parts[1]} whole maps beside each "
            "other, so neighbours in the result are no neighbours of the map"
        ),
        fix="permute each part of the channels behind its row or column before the reshape",
    )


def _find_cut_end(meanings: Meanings, index: int) -> Scramble | None:
    """A last dim as large as a part of the channels that holds a part of the positions instead: the
    head of a detector, or codes, without the permute in front of the view.
    """
    dims = meanings.read_output(index)
    if len(dims) < 2 or not dims[-1] or not list_roles(dims[-1]) <= PLACES or not dims[-2]:
        return None
    layers = [p for p in dims[-2] if p.axis.role == "channels" and p.axis.maker is not None]
    first, size = dims[-1][0], measure_dim(dims[-1])
    is_cut = dims[-2][-1].axis == first.axis and first.size < first.axis.size
    if not is_cut or not layers or layers[-1].axis.size % size:
        return None
    call = meanings.flow.calls[index]
    rank = len(call.inputs[0].shape)
    order = (0, *range(2, rank), 1)
    return Scramble(
        index=index,
        kind="cut-end",
        message=(
            f"{_say_view(meanings, index)}: its last dim holds {size} positions of one map, not "
            f"{size} of {name_piece(layers[-1], meanings.flow)}"
        ),
        fix=f"permute{order} first, then reshape",
    )


def _is_tiled(dim: Dim) -> bool:
    return (
        len(dim) == 2
        and dim[0].axis.role == "channels"
        and dim[0].axis.maker is not None
        and dim[1].axis.role in PLACES
        and dim[1].size == dim[1].axis.size
    )


def _find_rejoined(meanings: Meanings, index: int) -> Scramble | None:
    """A view that joins again what the view right before it has split, with nothing between."""
    flow = meanings.flow
    before = flow.producer(flow.calls[index].inputs[0])
    if before is None or operation(flow.calls[before]) not in ("view", "reshape", "unflatten"):
        return None
    given = flow.calls[before].inputs[0].shape if flow.calls[before].inputs else ()
    made, joined = flow.calls[before].outputs[0].shape, flow.calls[index].outputs[0].shape
    is_idle = given == joined and len(made) > len(given) and made.count(1) == given.count(1)
    if not is_idle or flow.readers[before] != [index] or 1 in made:
        return None
    return Scramble(
        index=index,
        kind="rejoined",
        message=(
            f"{describe(flow.calls[before])} turns {given} into {made}, and "
            f"{describe(flow.calls[index])} back into {joined}: between them no dims change "
            "places, so nothing is shuffled"
        ),
        fix="transpose the two parts between the two views",
    )


def _find_channels_in_places(meanings: Meanings, index: int) -> Scramble | None:
    """A convolution that slides over channels and sums over positions."""
    dims = meanings.read(meanings.flow.calls[index].inputs[0])
    size = meanings.setting(index, "kernel_size")
    if len(dims) < 3 or not isinstance(size, tuple) or max(size) == 1:
        return None
    is_summed = dims[1] and (list_roles(dims[1]) <= PLACES or _is_mixed(dims[1], dims[2]))
    layers = [p for dim in dims[2:] for p in dim if p.axis.role == "channels"]
    made = [p for p in layers if p.axis.maker is not None]
    if not is_summed or not made:
        return None
    call = meanings.flow.calls[index]
    shape = call.inputs[0].shape
    what = name_piece(made[-1], meanings.flow)
    return Scramble(
        index=index,
        kind="slides",
        message=(
            f"{describe(call)} takes dim 1 of {shape} as the channels, but that dim holds "
            f"{'positions' if list_roles(dims[1]) <= PLACES else 'other values too'}: its kernel "
            f"slides over {what}"
        ),
        fix=(
            f"transpose(1, {len(shape) - 1}) first, and as many in_channels as there are features"
            if len(shape) == 3
            else "permute the features to dim 1 before the view"
        ),
    )


def _is_mixed(channels: Dim, places: Dim) -> bool:
    """Whether a dim ends with the outer part of the channels that the other one is a part of, and
    holds something else too.
    """
    is_part = bool(places) and channels[-1].axis == places[0].axis
    return is_part and places[0].axis.role == "channels" and channels[0].axis != places[0].axis


def _find_shuffled_sum(meanings: Meanings, index: int) -> Scramble | None:
    """A sum of two tensors in which one axis lies in another order."""
    call = meanings.flow.calls[index]
    if len(call.inputs) != 2 or call.inputs[0].shape != call.inputs[1].shape:
        return None
    first, second = (meanings.read(t) for t in call.inputs)
    place = _find_conflict(first, second)
    if place is None:
        return None
    what = name_piece(first[place][0], meanings.flow)
    return Scramble(
        index=index,
        kind="shuffled-sum",
        message=(
            f"{describe(call)} adds tensors of {call.inputs[0].shape}, and dim {place}, {what}, "
            "lies in them in different orders: values of different positions are added"
        ),
        fix="undo the partition with the permute that is the inverse of the first one",
    )


def _find_conflict(first: Dims, second: Dims) -> int | None:
    for k, (a, b) in enumerate(zip(first, second, strict=False)):
        axes = [{p.axis for p in dim} for dim in (a, b)]
        shared = axes[0] & axes[1]
        if a != b and axes[0] == axes[1] and any(axis.role in PLACES for axis in shared):
            return k
    return None
