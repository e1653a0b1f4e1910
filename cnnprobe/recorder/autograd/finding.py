"""Finds every node behind an output: each once, each edge with its input, in the order of the
forward pass, without recursion.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from cnnprobe.graph import Edge
from cnnprobe.graph.order import sort_by_dependence
from cnnprobe.recorder.assembly import no_collection
from cnnprobe.recorder.autograd.release import secure
from cnnprobe.recorder.values import read_items

UNNUMBERED = 1 << 62  # leaves are numbered 2**64 - 1: they belong to no moment


class Found(NamedTuple):
    """The nodes behind an output, those made first standing first, and the edges between their
    positions, by their ends.
    """

    functions: list[Any]
    edges: list[Edge]


def find(roots: Sequence[Any]) -> Found:
    """All nodes that the roots depend on; they may then be dropped however deep they are."""
    functions = _reached(roots)
    found = _in_order(functions) or _by_dependence(functions)
    secure(found.functions, found.edges)
    return found


def _reached(roots: Sequence[Any]) -> list[Any]:
    """Every node that is reached from the roots; chains in one piece, which are sorted in next to
    no time.
    """
    functions = list(dict.fromkeys(roots))
    stack = functions.copy()
    seen = {None, *functions}
    know, add, push, pop = seen.add, functions.append, stack.append, stack.pop
    while stack:
        for below, _ in pop().next_functions:
            if below not in seen:
                know(below)
                add(below)
                push(below)
    return functions


def numbers_of(functions: Iterable[Any]) -> list[int]:
    """When each node was made, counted in each thread; -1 where its class does not tell, as in some
    versions of torch.
    """
    functions = list(functions)
    try:
        return [function._sequence_nr() for function in functions]
    except AttributeError:
        return [
            function._sequence_nr() if hasattr(function, "_sequence_nr") else -1
            for function in functions
        ]


def _in_order(functions: Sequence[Any]) -> Found | None:
    """By the numbers, a leaf just before the first that uses it; None where numbers of several
    threads, or none, tell no order.

    It runs once a node, and its inner loop once an edge: to ask for `next_functions` again is
    cheaper than to have kept them.
    """
    numbers = numbers_of(functions)
    place: dict[Any, int] = {}
    ordered: list[Any] = []
    edges: list[Edge] = []
    new, add, known, add_node = tuple.__new__, edges.append, place.get, ordered.append
    for at in sorted(range(len(functions)), key=numbers.__getitem__):
        function = functions[at]
        if numbers[at] >= UNNUMBERED and function in place:
            continue  # a leaf
        end, begun = len(ordered), len(edges)
        used = function.next_functions
        for k, (below, output) in enumerate(used):
            start = known(below)
            if start is not None:
                add(new(Edge, (start, end, k, output)))
            elif below is not None:
                break
        else:
            place[function] = end
            add_node(function)
            continue
        del edges[begun:]  # a leaf comes in before it
        for below, _ in used:
            if below is not None and below not in place:
                if numbers_of((below,))[0] < UNNUMBERED or below.next_functions:
                    return None  # it was used before it was made
                place[below] = len(ordered)
                add_node(below)
        end = place[function] = len(ordered)
        add_node(function)
        edges += [
            Edge(place[below], end, k, output)
            for k, (below, output) in enumerate(used)
            if below is not None
        ]
    return Found(ordered, edges)


def _by_dependence(functions: Sequence[Any]) -> Found:
    position = {function: i for i, function in enumerate(functions)}
    used = [
        [
            (k, position[below], output)
            for k, (below, output) in enumerate(f.next_functions)
            if below is not None
        ]
        for f in functions
    ]
    order = sort_by_dependence(numbers_of(functions), [[at for _, at, _ in uses] for uses in used])
    place = dict(zip(order, range(len(order)), strict=True))
    edges = [Edge(place[at], place[old], k, output) for old in order for k, at, output in used[old]]
    return Found([functions[old] for old in order], edges)


def nodes_behind(output: Any) -> list[Any]:
    """The grad_fn objects behind a nested output, in the order of the forward pass; they may be let
    go of as they are.
    """
    with no_collection():
        return find(list(nodes_in(output))).functions


def gradient_node(tensor: Tensor) -> Any:
    """The node whose gradient is the tensor's: its grad_fn, or for a leaf the one that accumulates
    it.
    """
    if not tensor.requires_grad:
        return None
    return (
        tensor.grad_fn
        if tensor.grad_fn is not None
        else torch.autograd.graph.get_gradient_edge(tensor).node
    )


def nodes_in(value: Any) -> Iterator[Any]:
    """The nodes that a nested value stands for: those of its tensors, of gradient edges, and nodes
    themselves.
    """
    for leaf in _leaves_in(value):
        node = gradient_node(leaf) if isinstance(leaf, Tensor) else getattr(leaf, "node", leaf)
        if node is not None:
            yield node


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a nested value, in order: containers, dataclasses, and plain objects by their
    attributes.
    """
    return (leaf for leaf in _leaves_in(value) if isinstance(leaf, Tensor))


def _leaves_in(value: Any) -> Iterator[Any]:
    stack, seen = [value], set()
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor | GradientEdge | Node):
            yield value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        stack.extend(reversed(_members(value)))


def _members(value: Any) -> list[Any]:
    items = read_items(value)
    if items is not None:
        return [item for _, item in items]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if (
        type(value).__module__ in ("builtins", "torch")
        or isinstance(value, type | nn.Module)
        or callable(value)
    ):
        return []
    return list(getattr(value, "__dict__", {}).values())
