"""Operations on a tensor's way that turned, lost or resized dims, and what each should be."""

import ast
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import set_argument
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import find_called, open_line, write_argument
from cnnprobe.crash.facts.joins import list_ancestors
from cnnprobe.crash.facts.words import count_elements, get_argument, quote, read_argument
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall, TensorInfo

_CHUNKS = ("chunk", "split", "tensor_split", "unsafe_chunk", "unsafe_split")
_MERGES = ("view", "reshape", "flatten")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A call that is to be made otherwise, what it did, and the edits of which one mends it."""

    call: ModuleCall
    text: str
    edits: tuple[Edit, ...]


def list_turns(crash: Crash) -> Iterator[Turn]:
    """What may have gone wrong before the failing call, each way back from what it was given."""
    for info in crash.inputs:
        yield from _list_batch_splits(crash, info)
        yield from _list_sizes(crash, info)
    yield from _list_packed(crash)
    yield from _list_merged(crash)


def name_operation(call: ModuleCall) -> str:
    """The catalogue's name of a function; "" for a layer or what the catalogue does not have."""
    info = find(call) if call.fqn is None else None
    return info.name if info is not None else ""


# -- the batch that was taken apart ----------------------------------------------------------------


def _list_batch_splits(crash: Crash, info: TensorInfo) -> Iterator[Turn]:
    """chunk(2) or `a, b = x` over the batch instead of the channels."""
    for _, call in crash.walk_back(info):
        name, x = name_operation(call), call.inputs[0] if call.inputs else None
        if x is None or len(x.shape) < 2 or x.shape[0] != crash.batch:
            continue
        if name not in (*_CHUNKS, "unbind") or not _keeps_batch_first(crash, x):
            continue
        if read_argument(call, "dim") not in (None, 0, -len(x.shape)):
            return
        has_maps = any(isinstance(m, nn.modules.conv._ConvNd) for m in crash.modules.values())
        dims = [1] if len(x.shape) != 3 or has_maps else [2, 1]
        count, where = len(call.outputs), quote(crash.find_module_above(call.parent))
        if name != "unbind":
            text = f"{name} in {where} splits the batch (dim 0) of {x.shape}, not dim {dims[0]}"
            size = get_argument(call, 1, "split_size")
            edits = tuple(_set_dim(crash, call, d) for d in dims)
            if "split" in name and type(size) is int and count > 1:  # parts of the batch's size
                edits = tuple(_split_dim(crash, call, count, d, x.shape[d]) for d in dims)
            yield Turn(call=call, text=text, edits=edits)
        elif count > 1 and _find_unpacked(call, count) is not None:
            fits = [d for d in dims if x.shape[d] % count == 0]
            text = f"{where} unpacks {x.shape} over the batch (dim 0) into {count} names"
            edits = tuple(_chunk_instead(crash, call, count, d) for d in fits)
            yield Turn(call=call, text=text, edits=edits)
        return


def _keeps_batch_first(crash: Crash, info: TensorInfo) -> bool:
    """Whether the batch is in dim 0 from the input on, and nothing has moved it."""
    for _, call in crash.walk_back(info):
        shapes = [t.shape for t in (*call.inputs[:1], *call.outputs[:1])]
        operation = find(call)
        if not all(s[:1] == (crash.batch,) for s in shapes):
            return False
        if operation is not None and operation.effect == "turns":
            moved = [n % len(shapes[0]) for n in call.arguments.values() if type(n) is int]
            is_kept = moved[:1] == [0] if operation.name == "permute" else 0 not in moved
            if not moved or not is_kept:
                return False
    return True


def _set_dim(crash: Crash, call: ModuleCall, dim: int) -> Edit:
    name = name_operation(call)
    return set_argument(crash, call, "dim", dim, title=f"use dim={dim} in {name} at {{place}}")


def _split_dim(crash: Crash, call: ModuleCall, count: int, dim: int, size: int) -> Edit:
    """The same number of parts of another dim."""

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
        return func(args[0], size // count, dim=dim)

    title = f"use split({size // count}, dim={dim}) at {{place}}"
    code = f"split({size // count}, dim={dim})"
    return rewrite_call(crash, call, rewrite, title=title, code=code)


def _find_unpacked(call: ModuleCall, count: int) -> tuple[File, ast.expr] | None:
    """The expression on a call's line that is unpacked into so many names."""
    try:
        file, line = open_line(call.source)
    except UnknownPlaceError:
        return None
    found = [
        node.value
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Assign)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and isinstance(node.targets[0], ast.Tuple)
        and len(node.targets[0].elts) == count
        and not isinstance(node.value, ast.Tuple)
    ]
    return (file, found[0]) if len(found) == 1 else None


def _chunk_instead(crash: Crash, call: ModuleCall, count: int, dim: int) -> Edit:
    def rewrite(_func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
        return args[0].chunk(count, dim=dim)

    def write() -> list[TextChange]:
        found = _find_unpacked(call, count)
        assert found is not None  # noqa: S101  (it was found before)
        file, value = found
        text = file.source(value)
        simple = isinstance(value, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
        return [file.replace(value, f"{text}{code}" if simple else f"({text}){code}")]

    code = f".chunk({count}, dim={dim})"
    title = f"split the features instead of the batch at {{place}}: x{code}"
    return rewrite_call(crash, call, rewrite, title=title, code=f"{{x}}{code}", written=write)


# -- functions that decide a size ------------------------------------------------------------------


def _list_sizes(crash: Crash, info: TensorInfo) -> Iterator[Turn]:
    """F.pad with its pairs in the wrong order, or irfft without the length of the signal."""
    others = {t.shape for t in crash.inputs if len(t.shape) == len(info.shape) > 2}
    for _, call in crash.walk_back(info):
        if (made := call.outputs[0].shape if call.outputs else ()) != info.shape or not call.inputs:
            return
        where, before = quote(crash.find_module_above(call.parent)), call.inputs[0].shape
        name = name_operation(call) or call.kind.rpartition(".")[2]
        pads = get_argument(call, 1, "pad") if name == "pad" else None
        if isinstance(pads, tuple) and len(pads) in (4, 6) and len(before) == len(made):
            turned = _turn_pairs(pads)
            sizes = [n + sum(turned[2 * i : 2 * i + 2]) for i, n in enumerate(before[::-1])][::-1]
            if any(tuple(sizes)[2:] == other[2:] != made[2:] for other in others):
                text = f"pad in {where} takes (left, right, top, bottom), the last dim first,"
                text += f" but got {pads}: it made {made} of {before}"
                yield Turn(call=call, text=text, edits=(_turn_pad(crash, call),))
            return
        if name in ("irfft", "hfft") and read_argument(call, "n") is None:
            dim = get_argument(call, 2, "dim")
            dim = len(made) - 1 if dim is None else dim % len(made)
            for wanted in {other[dim] for other in others if other[dim] != made[dim]}:
                if wanted // 2 + 1 == before[dim]:
                    text = f"{name} without n= in {where} gives an even length ({made[dim]}),"
                    text += f" but the signal has {wanted}"
                    edit = set_argument(crash, call, "n", wanted)
                    yield Turn(call=call, text=text, edits=(edit,))
            return


def _turn_pairs(pads: tuple[Any, ...]) -> tuple[Any, ...]:
    """The pairs of a padding in reverse order."""
    return tuple(itertools.chain(*[pads[i : i + 2] for i in range(0, len(pads), 2)][::-1]))


def _turn_pad(crash: Crash, call: ModuleCall) -> Edit:
    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "pad" in kwargs:
            return func(*args, **{**kwargs, "pad": _turn_pairs(tuple(kwargs["pad"]))})
        return func(args[0], _turn_pairs(tuple(args[1])), *args[2:], **kwargs)

    def write() -> list[TextChange]:
        file, written = find_called(call.source, "pad")
        given = [*written.args[1:2], *(k.value for k in written.keywords if k.arg == "pad")]
        parts = given[0].elts if given and isinstance(given[0], ast.List | ast.Tuple) else []
        pairs = zip(parts, _turn_pairs(tuple(parts)), strict=True)
        return [file.replace(old, file.source(new)) for old, new in pairs]

    title = "pass the pairs of pad in the order (left, right, top, bottom) at {place}"
    code = "(left, right, top, bottom)"
    return rewrite_call(crash, call, rewrite, title=title, code=code, written=write)


# -- packed sequences ------------------------------------------------------------------------------


def _list_packed(crash: Crash) -> Iterator[Turn]:
    """pad_packed_sequence with another batch_first than pack_padded_sequence."""
    rows = [crash.trace.calls[i] for i in sorted(list_ancestors(crash, *crash.inputs))]
    packs = {get_argument(c, 2, "") for c in rows if c.kind.endswith("._pack_padded_sequence")}
    for call in rows:
        is_first = get_argument(call, 2, "")
        if not call.kind.endswith("._pad_packed_sequence") or packs != {not is_first}:
            continue
        where = quote(crash.find_module_above(call.parent))
        text = f"pad_packed_sequence in {where} has batch_first={is_first}, pack_padded_sequence"
        text += f" batch_first={not is_first}: it gives {call.outputs[0].shape}"
        yield Turn(call=call, text=text, edits=(_pad_batch_first(crash, call, not is_first),))


def _pad_batch_first(crash: Crash, call: ModuleCall, value: bool) -> Edit:
    """Torch sorts the samples back after padding, in a dim that it knows from batch_first too."""
    sorts = [c for c in crash.trace.calls if c.source == call.source and c.parent == call.parent]
    last = next((c for c in sorts if name_operation(c) == "index_select"), call)

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = func(*args, **kwargs)
        if isinstance(found, Tensor):
            return found.transpose(0, 1)
        return (found[0].transpose(0, 1), *found[1:])

    def write() -> list[TextChange]:
        file, written = find_called(call.source, "pad_packed_sequence")
        return [write_argument(file, written, ["", "batch_first"], "batch_first", value)]

    code = f"batch_first={value}"
    title = f"use {code} in pad_packed_sequence at {{place}}"
    return rewrite_call(crash, last, rewrite, title=title, code=code, written=write)


# -- dims that were merged -------------------------------------------------------------------------


def _list_merged(crash: Crash) -> Iterator[Turn]:
    """A view that merged other dims of a map than the Linear after it was made for."""
    layer, x = crash.leaf, crash.inputs[0] if crash.inputs else None
    merge = crash.find_producer(x) if x is not None else None
    if not isinstance(layer, nn.Linear) or merge is None or name_operation(merge) not in _MERGES:
        return
    before, after = merge.inputs[0].shape, merge.outputs[0].shape
    if (kept := len(after) - 1) < 2 or len(before) <= len(after) or before[:kept] != after[:kept]:
        return
    for _, call in crash.walk_back(merge.inputs[0]):
        if name_operation(call) == "contiguous":
            continue
        order = _read_order(call)
        if name_operation(call) != "permute" or len(order) != len(before):
            return
        sizes = call.inputs[0].shape
        free = list(range(1, len(sizes)))
        rest = {d: count_elements(tuple(sizes[i] for i in free if i != d)) for d in free}
        lone = [d for d in free if rest[d] == layer.in_features]
        if 0 not in order[:kept] or kept != 2 or len(lone) != 1:
            return
        front = tuple(d if d == 0 else lone[0] for d in order[:kept])
        turned = (*front, *(d for d in free if d != lone[0]))
        text = f"permute{order} leaves {' x '.join(map(str, before[kept:]))} = {after[-1]} features"
        text += f", but '{crash.call.fqn if crash.call else ''}' (Linear) was made for"
        text += f" {layer.in_features} = {' x '.join(str(sizes[d]) for d in turned[kept:])}"
        yield Turn(call=call, text=text, edits=(_permute_otherwise(crash, call, turned),))
        return


def _read_order(call: ModuleCall) -> tuple[int, ...]:
    rank = len(call.inputs[0].shape) if call.inputs else 0
    return tuple(n % rank for n in call.arguments.values() if type(n) is int and rank)


def _permute_otherwise(crash: Crash, call: ModuleCall, order: tuple[int, ...]) -> Edit:
    def rewrite(_func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
        return args[0].permute(order)

    def write() -> list[TextChange]:
        file, written = find_called(call.source, "permute")
        nodes = written.args[-1].elts if isinstance(written.args[-1], ast.Tuple) else written.args
        pairs = zip(nodes[-len(order) :], order, strict=True)
        return [file.replace(node, str(dim)) for node, dim in pairs]

    title, code = f"use permute{order} at {{place}}", f"permute{order}"
    return rewrite_call(crash, call, rewrite, title=title, code=code, written=write)
