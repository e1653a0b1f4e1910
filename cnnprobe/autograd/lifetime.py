"""Graphs that live on: which of those that were watched are still there, what they hold, and what keeps them."""

import gc
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cnnprobe.autograd.finding import nodes_behind
from cnnprobe.autograd.walking import walk

_KEY = "cnnprobe.watched"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptGraph:
    """A watched graph that has not been dropped."""

    label: str
    freed: bool  # a backward pass has freed what it had kept; only its nodes remain
    saved_bytes: int  # activations that it holds now
    keepers: tuple[str, ...]  # "item of the list 'losses'", "the graph behind 'total'", ...


class _Token:
    """Lives in the metadata of a root node, and so as long as the node."""

    __slots__ = ("__weakref__", "label")

    def __init__(self, label: str) -> None:
        self.label = label


class GraphWatch:
    """Watches graphs without keeping them alive.

    >>> import torch
    >>> watch, losses = GraphWatch(), []
    >>> weight = torch.ones(3, requires_grad=True)
    >>> for step in range(2):
    ...     loss = weight.exp().sum()
    ...     watch.add(loss, f"step {step}")
    ...     losses.append(loss)
    >>> del loss, losses[1]
    >>> [(kept.label, kept.saved_bytes) for kept in watch.kept()]
    [('step 0', 12)]
    """

    def __init__(self) -> None:
        self._tokens: list[weakref.ref[_Token]] = []

    def add(self, output: Tensor, label: str) -> None:
        """Watch the graph behind `output`; a leaf, or what has no graph, is passed over."""
        if output.grad_fn is None:
            return
        token = _Token(label)
        metadata: Any = output.grad_fn.metadata  # a dictionary, whatever torch's stubs say
        metadata.setdefault(_KEY, []).append(token)
        self._tokens.append(weakref.ref(token))

    def alive(self) -> tuple[str, ...]:
        """The labels of the graphs that are still there, oldest first; those that are gone are forgotten. Costs next to nothing."""
        self._tokens = [reference for reference in self._tokens if reference() is not None]
        return tuple(token.label for token in (reference() for reference in self._tokens) if token is not None)

    def kept(self) -> tuple[KeptGraph, ...]:
        """The graphs that are still there, oldest first, and what keeps each.

        Looks at every object that the garbage collector knows: take it as a question asked once, not at each step.
        """
        tokens = [token for token in (reference() for reference in self._tokens) if token is not None]
        if not tokens:
            return ()
        holders = _holders({id(token) for token in tokens})
        return tuple(_kept(token, holders.get(id(token), [])) for token in tokens)


def _kept(token: _Token, tensors: list[tuple[Tensor, bool]]) -> KeptGraph:
    keepers: list[str] = []
    freed, size = False, 0
    for tensor, direct in tensors:
        if direct:
            graph = walk(tensor)
            freed, size = any("freed" in note for note in graph.notes), graph.saved_bytes
        keepers.extend(name if direct else f"the graph behind {name}" for name in _names(tensor))
    return KeptGraph(label=token.label, freed=freed, saved_bytes=size, keepers=tuple(dict.fromkeys(keepers)))


def _holders(wanted: set[int]) -> dict[int, list[tuple[Tensor, bool]]]:
    """Living tensors whose graph is, or contains, a watched one: (tensor, whether its own root is the watched one)."""
    found: dict[int, list[tuple[Tensor, bool]]] = {}
    for tensor in [value for value in gc.get_objects() if issubclass(type(value), Tensor)]:
        root = tensor.grad_fn
        for node in nodes_behind(tensor) if root is not None else ():
            for token in node.metadata.get(_KEY, ()):
                if id(token) in wanted:
                    found.setdefault(id(token), []).append((tensor, node is root))
    return found


def _names(value: object) -> Iterator[str]:
    """What refers to an object, in the user's words."""
    yield from _named(value)
    for referrer in gc.get_referrers(value):
        if type(referrer) in (list, tuple, set, deque):
            yield from (f"an item of the {type(referrer).__name__} {name}" for name in _named(referrer))


def _named(value: object) -> Iterator[str]:
    """The variables and attributes that are this very object."""
    for frame in _frames():
        yield from (f"{name!r} in {frame.f_code.co_name}()" for name, held in frame.f_locals.items() if held is value)
    for referrer in gc.get_referrers(value):
        names = referrer if isinstance(referrer, dict) else getattr(referrer, "__dict__", None)
        if not isinstance(names, dict) or isinstance(referrer, type):
            continue
        owner = _owner(referrer) if isinstance(referrer, dict) else f" of a {type(referrer).__name__}"
        yield from (f"{name!r}{owner}" for name, held in list(names.items()) if held is value and isinstance(name, str))


def _frames() -> Iterator[types.FrameType]:
    """The user's functions that are running; names of a module are found in its dictionary."""
    for frame in sys._current_frames().values():
        at: types.FrameType | None = frame
        while at is not None:
            if at.f_code.co_name != "<module>" and at.f_globals.get("__name__", "").partition(".")[0] != "cnnprobe":
                yield at
            at = at.f_back


def _owner(names: dict[Any, Any]) -> str:
    """Whose dictionary of names this is."""
    if "__name__" in names and "__builtins__" in names:
        return f" of the module {names['__name__']}"
    owner = next((o for o in gc.get_referrers(names) if getattr(o, "__dict__", None) is names), None)
    return f" of a {type(owner).__name__}" if owner is not None else ""
