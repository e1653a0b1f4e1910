"""Finds every node behind an output: each once, each edge with its input, in the order of the forward pass, without recursion."""

import contextlib
import dataclasses
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnnprobe.autograd.release import secure
from cnnprobe.graph import Edge
from cnnprobe.graph.order import by_dependence

UNNUMBERED = 1 << 62  # leaves are numbered 2**64 - 1: they belong to no moment


class _Links(NamedTuple):
    """What each node uses, in flat lists: those of node i stand from `bounds[i]` to `bounds[i + 1]`."""

    bounds: list[int]
    below: list[int]  # position of the node that is used; -1 for none
    outputs: list[int]  # which output of it


class Found(NamedTuple):
    """The nodes behind an output, those made first standing first, and the edges between their positions, by their ends."""

    functions: list[Any]
    edges: list[Edge]


def find(roots: Sequence[Any]) -> Found:
    """All nodes that the roots depend on; they may then be dropped however deep they are."""
    functions, links = _collect(roots)
    numbers = numbers_of(functions)
    found = _in_order(functions, links, numbers) or _by_dependence(functions, links, numbers)
    secure(found.functions, found.edges)
    return found


def _collect(roots: Sequence[Any]) -> tuple[list[Any], _Links]:
    """Every node that is reached from the roots, and its links."""
    functions = list(dict.fromkeys(roots))
    position = {function: i for i, function in enumerate(functions)}
    position[None] = -1
    links = _Links([0], [], [])
    bounds, belows, outputs = links
    known, add, add_below, add_output = position.get, functions.append, belows.append, outputs.append
    for function in functions:  # grows while it is walked
        for below, output in function.next_functions:
            at = known(below)
            if at is None:
                at = position[below] = len(functions)
                add(below)
            add_below(at)
            add_output(output)
        bounds.append(len(belows))
    return functions, links


def numbers_of(functions: Iterable[Any]) -> list[int]:
    """When each node was made, counted in each thread; -1 where its class does not tell, as in some versions of torch."""
    functions = list(functions)
    try:
        return [function._sequence_nr() for function in functions]
    except AttributeError:
        return [function._sequence_nr() if hasattr(function, "_sequence_nr") else -1 for function in functions]


def _in_order(functions: Sequence[Any], links: _Links, numbers: Sequence[int]) -> Found | None:
    """By the numbers, a leaf just before the first that uses it; None where numbers of several threads, or none, tell no order."""
    bounds, belows, outputs = links
    place = [-1] * len(functions) + [0]  # the last stands for none
    ordered: list[int] = []
    edges: list[Edge] = []
    new, add = tuple.__new__, edges.append
    for old in sorted(range(len(functions)), key=numbers.__getitem__):
        if place[old] >= 0:
            continue  # a leaf
        first = bounds[old]
        found = belows[first : bounds[old + 1]]
        for at in found:
            if place[at] < 0:
                if numbers[at] < UNNUMBERED or bounds[at] < bounds[at + 1]:
                    return None  # it was used before it was made
                place[at] = len(ordered)
                ordered.append(at)
        end = place[old] = len(ordered)
        ordered.append(old)
        which = -1  # counted by hand, as all of this is written for speed: it runs once an edge
        for at in found:
            which += 1
            if at >= 0:
                add(new(Edge, (place[at], end, which, outputs[first + which])))
    return Found([functions[old] for old in ordered], edges)


def _by_dependence(functions: Sequence[Any], links: _Links, numbers: Sequence[int]) -> Found:
    bounds, belows, outputs = links
    spans = [range(start, end) for start, end in pairwise(bounds)]
    order = by_dependence(numbers, [[belows[at] for at in span if belows[at] >= 0] for span in spans])
    place = dict(zip(order, range(len(order)), strict=True))
    edges = [
        Edge(place[belows[at]], place[old], which, outputs[at]) for old in order for which, at in enumerate(spans[old]) if belows[at] >= 0
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
