"""What the arguments of a call have to be in terms of one another, and which of them are not.

Source of each contract: the page of the function or layer in torch's documentation, "Shape".
"""

import ast
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from cnnprobe import operations
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.frames import read_arguments
from cnnprobe.crash.facts.values import FailingLine, read_attribute, read_failing_line

Change = tuple[str, Callable[[Tensor], Tensor]]  # code with {x}, and what it does


@dataclass(frozen=True, kw_only=True)
class BoundCall:
    """The failing call of the user's, with its arguments by their names."""

    name: str  # of the operation, or the class of the module
    shown: str  # as it is written: F.grid_sample
    module: nn.Module | None
    names: tuple[str, ...]  # of all arguments, in order
    nodes: Mapping[str, ast.expr]
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What one argument has to be; None in `shape` is any size."""

    name: str
    said: str
    shape: tuple[int | None, ...] | None = None
    holds: Callable[[Tensor], bool] | None = None  # of its values
    others: tuple[Change, ...] = ()  # what may make its values fit

    def fits(self, value: Tensor) -> bool:
        """Whether a tensor is so."""
        if self.shape is not None and not _fits_shape(tuple(value.shape), self.shape):
            return False
        return self.holds is None or value.is_meta or self.holds(value)

    def list_changes(self, value: Tensor) -> Iterator[Change]:
        """What makes a tensor so, where one such change stands out."""
        found = [each for each in self.others if self.fits(each[1](value))]
        if self.shape is not None and not found:
            found = list(_refit(tuple(value.shape), self.shape))
        if len(found) == 1:
            yield found[0]


def _fits_shape(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        n is None or m == n for m, n in zip(shape, wanted, strict=True)
    )


def _refit(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> Iterator[Change]:
    """Expand over dims of size 1; else move one dim, the batch in its place if that is possible."""
    if len(shape) != len(wanted):
        return
    sizes = tuple(-1 if n is None or n == m else n for m, n in zip(shape, wanted, strict=True))
    if all(n == -1 or m == 1 for m, n in zip(shape, sizes, strict=True)):
        yield f"{{x}}.expand({', '.join(map(str, sizes))})", lambda t: t.expand(sizes)
        return
    rank = range(len(shape))
    orders = dict.fromkeys(_move(rank, a, b) for a, b in itertools.permutations(rank, 2))
    fit = [o for o in orders if _fits_shape(tuple(shape[i] for i in o), wanted)]
    kept = [o for o in fit if o[0] == 0]
    for order in kept or fit:
        yield f"{{x}}.permute({', '.join(map(str, order))})", _permute(order)


def _permute(order: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    return lambda t: t.permute(order)


def _move(rank: range, a: int, b: int) -> tuple[int, ...]:
    left = [i for i in rank if i != a]
    return (*left[:b], a, *left[b:])


def read_call(crash: Crash) -> BoundCall | None:
    """The failing call, where it is one of a module or of a function of torch's."""
    line = read_failing_line(crash)
    node = line.nodes[0] if line.nodes else None
    if not isinstance(node, ast.Call) or any(isinstance(a, ast.Starred) for a in node.args):
        return None
    module = read_attribute(node.func, line.names)
    if isinstance(module, nn.Module) and type(module).__module__.startswith("torch.nn."):
        names, name = tuple(inspect.signature(module.forward).parameters), type(module).__name__
        bound = _bind(line, node, name, names, module)
        given = read_arguments(crash.error, module)
        values = dict(zip(names, given[0], strict=False)) | given[1] if given is not None else {}
        return replace(bound, values={**bound.values, **values})
    info = (
        None
        if isinstance(module, nn.Module)
        else operations.find_function(ast.unparse(node.func).rpartition(".")[2])
    )
    return None if info is None else _bind(line, node, info.name, info.signature.names, None)


def _bind(
    line: FailingLine, node: ast.Call, name: str, names: tuple[str, ...], module: nn.Module | None
) -> BoundCall:
    nodes = dict(zip(names, node.args, strict=False))
    nodes |= {k.arg: k.value for k in node.keywords if k.arg is not None}
    return BoundCall(
        name=name,
        shown=ast.unparse(node.func),
        module=module,
        names=names,
        nodes=nodes,
        values={key: line.evaluate(value) for key, value in nodes.items()},
    )


def list_wanted(call: BoundCall) -> list[Wanted]:
    """What the arguments of a call have to be, as far as it is known."""
    contract = _CONTRACTS.get(call.name)
    return list(contract(call)) if contract is not None else []


def _want_attention(call: BoundCall) -> Iterator[Wanted]:
    layer = call.module
    if isinstance(layer, nn.MultiheadAttention):
        for name, size in (("key", layer.kdim), ("value", layer.vdim)):
            said = f"to have {size} features, as {name[0]}dim says"
            yield Wanted(name=name, said=said, shape=(None, None, size))


def _want_one_batch(call: BoundCall) -> Iterator[Wanted]:
    """Source and target of a transformer have one batch."""
    name, other = ("tgt", "src") if call.name == "Transformer" else ("tgt", "memory")
    x, source = call.values.get(name), call.values.get(other)
    parts = call.module.modules() if call.module is not None else ()
    layer = next((m for m in parts if isinstance(m, nn.MultiheadAttention)), None)
    if not isinstance(x, Tensor) or not isinstance(source, Tensor) or layer is None:
        return
    if x.dim() == source.dim() == 3:
        at = 0 if layer.batch_first else 1
        batch = source.shape[at]
        shape = (batch, None, None) if at == 0 else (None, batch, None)
        said = f"to have the batch of {other}, {batch}, in dim {at}"
        yield Wanted(name=name, said=said, shape=shape)


def _want_grid(call: BoundCall) -> Iterator[Wanted]:
    x = call.values.get("input")
    if isinstance(x, Tensor) and x.dim() in (4, 5):
        rank = x.dim() - 2
        said = f"to be ({'N, H, W' if rank == 2 else 'N, D, H, W'}, {rank})"
        yield Wanted(name="grid", said=said, shape=(x.shape[0], *[None] * rank, rank))


def _want_offsets(call: BoundCall) -> Iterator[Wanted]:
    x = call.values.get("input")
    if not isinstance(x, Tensor) or x.dim() != 1 or x.is_meta:
        return
    count = len(x)

    def holds(t: Tensor) -> bool:
        is_ascending = not t.numel() or bool((t[1:] >= t[:-1]).all())
        return is_ascending and (not t.numel() or (int(t[0]) == 0 and int(t[-1]) <= count))

    offsets = call.values.get("offsets")
    is_lengths = isinstance(offsets, Tensor) and not offsets.is_meta
    is_lengths = is_lengths and int(offsets.sum()) == count  # type: ignore[union-attr]
    starts: Change = ("{x}.cumsum(0) - {x}", lambda t: t.cumsum(0) - t)
    said = "to be the positions at which the bags start: 0 first, none smaller than the one before"
    said += f"; they add up to {count}, as the lengths of the bags do" if is_lengths else ""
    yield Wanted(name="offsets", said=said, holds=holds, others=(starts,) if is_lengths else ())


def _want_classes(call: BoundCall) -> Iterator[Wanted]:
    count = call.values.get("num_classes")
    if isinstance(count, int) and count > 0:
        said = f"to hold 0 to {count - 1}, as num_classes={count} says"

        def holds(t: Tensor) -> bool:
            return not t.numel() or (int(t.min()) >= 0 and int(t.max()) < count)

        yield Wanted(name="tensor", said=said, holds=holds)


_CONTRACTS: dict[str, Callable[[BoundCall], Iterator[Wanted]]] = {
    "MultiheadAttention": _want_attention,
    "Transformer": _want_one_batch,
    "TransformerDecoder": _want_one_batch,
    "TransformerDecoderLayer": _want_one_batch,
    "grid_sample": _want_grid,
    "EmbeddingBag": _want_offsets,
    "embedding_bag": _want_offsets,
    "one_hot": _want_classes,
}
