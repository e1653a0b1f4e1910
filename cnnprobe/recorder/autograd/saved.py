"""What a graph keeps for backward: each storage once, without running anybody's unpack hook.

`_saved_self` and its like unpack: they run the hooks of `saved_tensors_hooks` and would recompute a
whole checkpointed segment. The raw SavedTensor lets one look at what was packed (torch 2.7 and
later; before, nothing is read and a note says so).
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cnnprobe.graph import Saved
from cnnprobe.recorder.values import EXACT, dtype_name, read_shape, shared

_RAW = "_raw_saved_"
_NO_MARKS: tuple[str, ...] = ()
READABLE = hasattr(getattr(torch._C._autograd, "SavedTensor", None), "unpack_hook")


@dataclass(slots=True)
class SavedLedger:
    """Storages seen so far, and what each was first saved as."""

    parameters: set[int]
    inputs: set[int]
    entries: list[Saved] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    slots: int = 0  # tensors that were looked for
    found: int = 0

    # In one piece: it runs once a node, and a further frame would cost more than most of its lines.
    def book(self, node: int, function: Any) -> tuple[int, tuple[str, ...]]:
        """Bytes of activations that `function` is the first to keep, and what is to be said of
        it.
        """
        size, marks = 0, _NO_MARKS
        kind: type = type(function)
        names, is_custom = _describe(kind)
        for name, short in names:
            try:
                saved = getattr(function, name)
            except (RuntimeError, AttributeError):  # freed by backward
                continue
            if saved is None:
                continue
            if type(saved) is tuple or saved.unpack_hook is not None:
                for each in saved if type(saved) is tuple else (saved,):
                    if each is not None:
                        more, mark = self._book_one(node, short, each, function)
                        size += more
                        marks = marks if mark is None or mark in marks else (*marks, mark)
                continue
            self.slots += 1
            tensor = saved.data
            if tensor is not None:
                self.found += 1
                if tensor._version and _is_overwritten(function, short):
                    marks = marks if "overwritten" in marks else (*marks, "overwritten")
                size += self._enter(node, short, tensor)
        if is_custom:
            size += sum(
                self._enter(node, name, tensor) for name, tensor in _kept_as_attributes(function)
            )
        return size, marks

    def _book_one(self, node: int, name: str, saved: Any, function: Any) -> tuple[int, str | None]:
        """The same of one tensor: one of a list, or one that a hook has packed."""
        self.slots += 1
        if saved.unpack_hook is not None:
            self.found += 1
            is_recomputed = type(saved.data).__name__ in ("_Holder", "_Handle")
            size = sum(self._enter(node, name, tensor) for tensor in _tensors(saved.data))
            return size, "recomputed" if is_recomputed else "packed by a hook"
        tensor = saved.data
        if tensor is None:
            return 0, None
        self.found += 1
        is_lost = tensor._version and _is_overwritten(function, name)
        return self._enter(node, name, tensor), "overwritten" if is_lost else None

    def _enter(self, node: int, name: str, tensor: Tensor) -> int:
        """Bytes that this tensor adds to the activations: none if its storage was seen, or is a
        parameter's or an input's.
        """
        try:
            storage = tensor.untyped_storage()
            identity = storage._cdata
            if identity in self.seen:
                return 0
            return self._add(node, name, tensor, identity, storage.nbytes())
        except (RuntimeError, NotImplementedError, ValueError):
            return sum(
                self._add(node, name, tensor, identity, nbytes)
                for identity, nbytes in storages(tensor)
                if identity not in self.seen
            )

    def _add(self, node: int, name: str, tensor: Tensor, identity: int, nbytes: int) -> int:
        self.seen.add(identity)
        is_parameter, is_input = identity in self.parameters, identity in self.inputs
        kind = "parameter" if is_parameter else "input" if is_input else "activation"
        try:
            shape = shared(tensor.shape) if type(tensor) in EXACT else read_shape(tensor)
        except RuntimeError:  # a nested one
            shape = read_shape(tensor)
        entry = (node, name, nbytes, kind, shape, dtype_name(tensor.dtype))
        self.entries.append(tuple.__new__(Saved, entry))
        return nbytes if kind == "activation" else 0


def storages(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """(identity, bytes) of the memory behind a tensor: of both parts of a sparse one; its own size
    where it has no storage.
    """
    try:
        storage = tensor.untyped_storage()
        yield storage._cdata, storage.nbytes()
    except (RuntimeError, NotImplementedError, ValueError):
        parts = _parts(tensor)
        if parts:
            for part in parts:
                yield from storages(part)
        else:
            yield id(tensor), tensor.numel() * tensor.element_size()


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout is torch.sparse_coo:
        return (tensor._indices(), tensor._values())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    return ()


@functools.cache
def _describe(kind: type) -> tuple[tuple[tuple[str, str], ...], bool]:
    """The attributes under which a class of nodes keeps tensors, and what users call them; and
    whether it is a Function of the user's.
    """
    names = [(name, name.removeprefix(_RAW)) for name in dir(kind) if name.startswith(_RAW)]
    return tuple(names), issubclass(kind, torch.autograd.function.FunctionCtx)


def _is_overwritten(function: Any, name: str) -> bool:
    """Whether backward will refuse this tensor, since it was written to after it was saved."""
    try:
        getattr(function, "saved_tensors" if name == "tensors" else f"_saved_{name}")
    except RuntimeError as error:
        return "modified by an inplace operation" in str(error)
    return False


def _kept_as_attributes(function: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a custom Function has put on its ctx, past save_for_backward."""
    for name, value in vars(function).items():
        if name != "to_save":
            yield from ((name, tensor) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterable[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
