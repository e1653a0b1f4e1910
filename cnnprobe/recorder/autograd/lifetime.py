"""Graphs that live on: which of those that were watched are still there, what they hold, and what
keeps them.
"""

import gc
import inspect
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cnnprobe.recorder.autograd.finding import nodes_behind
from cnnprobe.recorder.autograd.saved import storages
from cnnprobe.recorder.autograd.walking import saved_behind

_KEY = "cnnprobe.watched"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptGraph:
    """A watched graph that has not been dropped. Before torch 2.7 what is kept for backward cannot
    be read: not freed, 0 bytes.
    """

    label: str
    freed: bool  # a backward pass has freed what it had kept; only its nodes remain
    saved_bytes: int  # activations that it holds now for a backward pass
    tensor_bytes: int  # of the tensors that keep it and are part of it, each storage once
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
        self._mark([output.grad_fn], label)

    def add_whole(self, output: Any, label: str) -> None:
        """Watch every node behind a nested output, so that what keeps a part of the graph is found
        too. Takes as long as a walk.
        """
        self._mark([node for node in nodes_behind(output) if node.next_functions], label)

    def _mark(self, nodes: Iterable[Any], label: str) -> None:
        token = _Token(label)
        for node in nodes:
            node.metadata.setdefault(_KEY, []).append(token)
        self._tokens.append(weakref.ref(token))

    def alive(self) -> tuple[str, ...]:
        """The labels of the graphs that are still there, oldest first; those that are gone are
        forgotten. Costs next to nothing.
        """
        self._tokens = [reference for reference in self._tokens if reference() is not None]
        return tuple(
            token.label
            for token in (reference() for reference in self._tokens)
            if token is not None
        )

    def kept(self) -> tuple[KeptGraph, ...]:
        """The graphs that are still there, oldest first, and what keeps each.

        Looks at every object that the garbage collector knows: take it as a question asked once,
        not at each step.
        """
        tokens = [
            token for token in (reference() for reference in self._tokens) if token is not None
        ]
        if not tokens:
            return ()
        holders = _holders({id(token) for token in tokens})
        return tuple(_kept(token.label, holders.get(id(token), _Holders())) for token in tokens)


@dataclass(slots=True)
class _Holders:
    """What was found of a watched graph: the nodes that are still there, and the tensors behind
    which they stand.
    """

    nodes: dict[Any, None] = field(default_factory=dict)
    tensors: list[tuple[Tensor, bool]] = field(
        default_factory=list
    )  # and whether they are part of the graph


def _kept(label: str, holders: _Holders) -> KeptGraph:
    keepers = [
        name if own else f"the graph behind {name}"
        for tensor, own in holders.tensors
        for name in _names(tensor)
    ]
    size, freed = saved_behind(list(holders.nodes))
    memory = dict(part for tensor, own in holders.tensors if own for part in storages(tensor))
    return KeptGraph(
        label=label,
        freed=freed,
        saved_bytes=size,
        tensor_bytes=sum(memory.values()),
        keepers=tuple(dict.fromkeys(keepers)),
    )


def _holders(wanted: set[int]) -> dict[int, _Holders]:
    """What is left of each watched graph, by the identity of its token."""
    found: dict[int, _Holders] = {}
    for tensor in [value for value in gc.get_objects() if issubclass(type(value), Tensor)]:
        root = _root(tensor)
        met: dict[int, bool] = {}
        for node in nodes_behind(tensor) if root is not None else ():
            for identity in {id(token) for token in node.metadata.get(_KEY, ())} & wanted:
                found.setdefault(identity, _Holders()).nodes[node] = None
                met[identity] = met.get(identity, False) or node is root
        for identity, own in met.items():
            found[identity].tensors.append((tensor, own))
    return found


def _root(tensor: Tensor) -> Any:
    try:
        return tensor.grad_fn
    except RuntimeError:  # an undefined tensor: torch 2.6 keeps some in places of its own
        return None


def _names(value: object) -> Iterator[str]:
    """What refers to an object, in the user's words."""
    yield from _named(value)
    for referrer in gc.get_referrers(value):
        if type(referrer) in (list, tuple, set, deque):
            yield from (
                f"an item of the {type(referrer).__name__} {name}" for name in _named(referrer)
            )


def _named(value: object) -> Iterator[str]:
    """The variables and attributes that are this very object."""
    yield from _variables(value)
    for referrer in gc.get_referrers(value):
        names = referrer if isinstance(referrer, dict) else getattr(referrer, "__dict__", None)
        if not isinstance(names, dict) or isinstance(referrer, type):
            continue
        owner = _find_owner(referrer) if isinstance(referrer, dict) else referrer
        if type(owner).__module__.partition(".")[0] == "cnnprobe":
            continue  # what we hold of the user's while we look is no variable of theirs
        yield from (
            f"{name!r}{_describe_owner(owner, names)}"
            for name, held in list(names.items())
            if held is value and isinstance(name, str)
        )


def _variables(value: object) -> list[str]:
    """The local variables of running functions that are this very object."""
    found = []
    for frame in _frames():
        names = frame.f_locals
        found += [
            f"{name!r} in {frame.f_code.co_name}()" for name, held in names.items() if held is value
        ]
        if (
            isinstance(names, dict)
            and frame.f_code.co_flags & inspect.CO_OPTIMIZED
            and sys.gettrace() is None
        ):
            # before Python 3.13 it is a copy that stays with the frame, and would keep what the
            # function lets go of
            names.clear()
    return found


def _frames() -> Iterator[types.FrameType]:
    """The user's functions that are running; names of a module are found in its dictionary."""
    at: types.FrameType | None
    # One name, which ends as None: a frame that holds itself would keep all that it stands on.
    for at in sys._current_frames().values():
        while at is not None:
            if (
                at.f_code.co_name != "<module>"
                and at.f_globals.get("__name__", "").partition(".")[0] != "cnnprobe"
            ):
                yield at
            at = at.f_back  # noqa: PLW2901 - see above


def _find_owner(names: dict[Any, Any]) -> object:
    """The object that has this dictionary of names; None for that of a module, or a plain one."""
    if "__name__" in names and "__builtins__" in names:
        return None
    return next((o for o in gc.get_referrers(names) if getattr(o, "__dict__", None) is names), None)


def _describe_owner(owner: object, names: dict[Any, Any]) -> str:
    if owner is not None:
        return f" of a {type(owner).__name__}"
    is_module = "__name__" in names and "__builtins__" in names
    return f" of the module {names['__name__']}" if is_module else ""
