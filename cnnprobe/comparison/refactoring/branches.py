"""The data flow of a forward pass as a tree: chains of layers, and branches between a fork and the
operation that joins them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnprobe.comparison.refactoring.layers import Layer, NotWritableError, make_layer
from cnnprobe.records.differences import Operation, describe_place

_INPUT = -1
JOINS = {"add": "+", "mul": "*", "cat": "cat"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenStep:
    """A step that is written in the forward itself: flatten, mean, reshape."""

    text: str  # with {x} for what it takes
    operation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """Branches from one value, in the order in which the join takes them; an empty one hands the
    value on.
    """

    branches: "tuple[tuple[Item, ...], ...]"
    join: str  # "+", "*" or "cat"
    dim: int  # of cat
    operation: int
    # False: a chain like the main branch of a residual block, without its shortcut and sum
    joins: bool = True


Item = Layer | WrittenStep | Parallel


def list_items(operations: Sequence[Operation]) -> tuple[Item, ...]:
    """The whole forward pass as a chain of items.

    Raises:
        NotWritableError: an operation is no layer, a layer is used twice, or branches cross.
    """
    _refuse_sharing(operations)
    sources = _find_sources(operations)
    dominators = _find_dominators(sources)
    read = {source for inputs in sources for source in inputs}
    ends = [
        k
        for k, operation in enumerate(operations)
        if k not in read and operation.name != "identity"
    ]
    if len(ends) != 1:
        raise NotWritableError(
            f"{len(ends)} operations have an unused result or an output of their own",
            where="the model's forward",
            fix="refactor a part with one output",
        )
    items = _build_chain(operations, sources, dominators, (_INPUT, ends[0]))
    covered = sorted(index for item in items for index in list_covered(item))
    if covered != [k for k, operation in enumerate(operations) if operation.name != "identity"]:
        raise NotWritableError(
            "branches cross: a value inside a branch is used outside of it",
            where="the model's forward",
        )
    return items


def _refuse_sharing(operations: Sequence[Operation]) -> None:
    users: dict[str, Operation] = {}
    for operation in operations:
        for name in operation.parameters.values():
            if name in users:
                raise NotWritableError(
                    (
                        f"{name!r} is used twice, by {describe_place(users[name])} and "
                        f"{describe_place(operation)}"
                    ),
                    where=describe_place(operation),
                    fix="a shared layer cannot be moved into a block; write this part by hand",
                )
            users[name] = operation


def _find_sources(operations: Sequence[Operation]) -> list[tuple[int, ...]]:
    """What each operation reads, through what only hands a value on."""
    found: list[tuple[int, ...]] = []
    for operation in operations:
        inputs = []
        for source in operation.sources:
            k = _INPUT if source is None else source
            while k != _INPUT and operations[k].name == "identity":
                k = found[k][0]
            inputs.append(k)
        if not inputs:
            raise NotWritableError(
                f"{operation.kind} reads no tensor of the forward pass",
                where=describe_place(operation),
            )
        found.append(tuple(inputs))
    return found


def _find_dominators(sources: Sequence[tuple[int, ...]]) -> list[int]:
    """The nearest operation that all ways from the input to this one go through; operations stand
    in an order in which they ran.
    """
    found: list[int] = []
    for inputs in sources:
        common = inputs[0]
        for other in inputs[1:]:
            while common != other:
                if common > other:
                    common = found[common]
                else:
                    other = found[other]  # noqa: PLW2901 - climbs until both meet
        found.append(common)
    return found


def _check_joining(operation: Operation, inputs: tuple[int, ...]) -> None:
    """Refuse what joins its inputs in a way that a block cannot say."""
    plain = operation.config.get("alpha", 1) == 1 and not operation.parameters
    if operation.name not in JOINS or len(inputs) < 2 or not plain:
        raise NotWritableError(
            f"{operation.kind} of {len(inputs)} tensors cannot be written as a block",
            where=describe_place(operation),
        )


def _build_chain(
    operations: Sequence[Operation],
    sources: Sequence[tuple[int, ...]],
    dominators: Sequence[int],
    ends: tuple[int, int],
) -> tuple[Item, ...]:
    """The items between two values, from the last to the first; recursive only in the nesting of
    branches.
    """
    start, current = ends
    items: list[Item] = []
    while current != start:
        if current < start:
            raise NotWritableError(
                "branches cross: one begins before the fork of the other",
                where=describe_place(operations[start]),
            )
        operation, inputs = operations[current], sources[current]
        if len(inputs) == 1 and operation.name not in JOINS:
            items.append(_make_single(operation, current))
            current = inputs[0]
            continue
        _check_joining(operation, inputs)
        fork = dominators[current]
        branches = tuple(
            _build_chain(operations, sources, dominators, (fork, source)) for source in inputs
        )
        dim = operation.config.get("dim", 0)
        items.append(
            Parallel(
                branches=branches,
                join=JOINS[operation.name],
                dim=dim if isinstance(dim, int) else 0,
                operation=current,
            )
        )
        current = fork
    return tuple(reversed(items))


def _make_single(operation: Operation, index: int) -> Item:
    if (
        operation.name == "mean"
        and operation.config.get("keepdim") is False
        and isinstance(operation.config.get("dim"), int | tuple)
    ):
        return WrittenStep(text=f"{{x}}.mean({operation.config['dim']!r})", operation=index)
    if operation.name == "reshape":
        shape = operation.config.get("shape")
        sizes = ", ".join(map(str, shape)) if isinstance(shape, tuple) else ""
        keeps_batch = bool(operation.given[0]) and operation.given[0][0] == operation.made[0][0]
        return WrittenStep(
            text="{x}.reshape(len({x}), " + sizes + ")"
            if keeps_batch
            else "{x}.reshape(" + sizes + ")",
            operation=index,
        )
    return make_layer(operation, index)


def list_covered(item: Item) -> Iterator[int]:
    """The operations that an item stands for."""
    if not isinstance(item, Parallel) or item.joins:
        yield item.operation
    if isinstance(item, Parallel):
        for branch in item.branches:
            for inner in branch:
                yield from list_covered(inner)
