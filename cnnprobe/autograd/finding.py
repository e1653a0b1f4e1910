"""Finds every node behind an output: each once, each edge with its input, in the order of the forward pass, without recursion."""

import contextlib
import dataclasses
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnnprobe.autograd.release import secure
from cnnprobe.graph import Edge
from cnnprobe.graph.order import by_dependence

UNNUMBERED = 1 << 62  # leaves are numbered 2**64 - 1: they belong to no moment

Links = Sequence[tuple[Any, int]]  # `next_functions` of a node: what it uses, and which output of that


class Found(NamedTuple):
    """The nodes behind an output, those made first standing first, and the edges between their positions, by their ends."""

    functions: list[Any]
    edges: list[Edge]


def find(roots: Sequence[Any]) -> Found:
    """All nodes that the roots depend on; they may then be dropped however deep they are."""
    functions, links, position = _collect(roots)
    found = _in_order(functions, links, position) or _by_dependence(functions, links, position)
    secure(found.functions, found.edges)
    return found


def _collect(roots: Sequence[Any]) -> tuple[list[Any], list[Links], dict[Any, int]]:
    """Every node that is reached from the roots, its links, and its position; that of None is -1."""
    functions = list(dict.fromkeys(roots))
    position = {function: i for i, function in enumerate(functions)}
    position[None] = -1
    links: list[Links] = []
    for function in functions:  # grows while it is walked
        found = function.next_functions
        links.append(found)
        for below, _ in found:
            if below not in position:
                position[below] = len(functions)
                functions.append(below)
    return functions, links, position


def numbers_of(functions: Iterable[Any]) -> list[int]:
    """When each node was made, counted in each thread; -1 where its class does not tell, as in some versions of torch."""
    try:
        return [function._sequence_nr() for function in functions]
    except AttributeError:
        return [function._sequence_nr() if hasattr(function, "_sequence_nr") else -1 for function in functions]


def _in_order(functions: Sequence[Any], links: Sequence[Links], position: Mapping[Any, int]) -> Found | None:
    """By the numbers, a leaf just before the first that uses it; None where numbers of several threads, or none, tell no order."""
    numbers = numbers_of(functions)
    place = [-1] * len(functions)
    ordered: list[int] = []
    edges: list[Edge] = []
    new, add = tuple.__new__, edges.append
    for old in sorted(range(len(functions)), key=numbers.__getitem__):
        if numbers[old] >= UNNUMBERED and place[old] >= 0:
            continue
        for below, _ in links[old]:
            at = position[below]
            if place[at] < 0 <= at:
                if numbers[at] < UNNUMBERED or links[at]:
                    return None  # it was used before it was made
                place[at] = len(ordered)
                ordered.append(at)
        end = place[old] = len(ordered)
        ordered.append(old)
        which = -1  # counted by hand, as all of this is written for speed: it runs once an edge
        for below, output in links[old]:
            which += 1
            at = position[below]
            if at >= 0:
                add(new(Edge, (place[at], end, which, output)))
    return Found([functions[old] for old in ordered], edges)


def _by_dependence(functions: Sequence[Any], links: Sequence[Links], position: Mapping[Any, int]) -> Found:
    below = [[position[other] for other, _ in found if other is not None] for found in links]
    order = by_dependence(numbers_of(functions), below)
    place = dict(zip(order, range(len(order)), strict=True))
    edges = [
        Edge(place[position[other]], place[old], which, output)
        for old in order
        for which, (other, output) in enumerate(links[old])
        if other is not None
    ]
    return Found([functions[old] for old in order], edges)


def nodes_behind(output: Any) -> list[Any]:
    """The grad_fn objects behind a nested output, in the order of the forward pass; they may be let go of as they are."""
    with no_collection():
        return find([node for node in map(gradient_node, tensors_in(output)) if node is not None]).functions


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """A hundred thousand new objects make the collector look at all that there are, again and again: half of the time of a walk."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def gradient_node(tensor: Tensor) -> Any:
    """The node whose gradient is the tensor's: its grad_fn, or for a leaf the one that accumulates it."""
    if not tensor.requires_grad:
        return None
    return tensor.grad_fn if tensor.grad_fn is not None else torch.autograd.graph.get_gradient_edge(tensor).node


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a nested value, in order: containers, dataclasses, and plain objects by their attributes."""
    stack, seen = [value], set()
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            yield value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        stack.extend(reversed(_members(value)))


def _members(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if type(value).__module__ in ("builtins", "torch") or isinstance(value, type | nn.Module) or callable(value):
        return []
    return list(getattr(value, "__dict__", {}).values())
