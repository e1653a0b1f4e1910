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
from cnnprobe.recorder.values import read_shape

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

    def book(self, node: int, function: Any) -> tuple[int, tuple[str, ...]]:
        """Bytes of activations that `function` is the first to keep, and what is to be said of
        it.
        """
        size, marks = 0, _NO_MARKS
        for name, saved in _slots(function):
            self.slots += 1
            if saved.unpack_hook is not None:
                self.found += 1
                mark = (
                    "recomputed"
                    if type(saved.data).__name__ in ("_Holder", "_Handle")
                    else "packed by a hook"
                )
                marks = marks if mark in marks else (*marks, mark)
                size += sum(self._enter(node, name, tensor) for tensor in _tensors(saved.data))
                continue
            tensor = saved.data
            if tensor is None:
                continue
            self.found += 1
            if tensor._version and _is_overwritten(function, name):
                marks = marks if "overwritten" in marks else (*marks, "overwritten")
            size += self._enter(node, name, tensor)
        if isinstance(function, torch.autograd.function.FunctionCtx):
            size += sum(
                self._enter(node, name, tensor) for name, tensor in _kept_as_attributes(function)
            )
        return size, marks

    def _enter(self, node: int, name: str, tensor: Tensor) -> int:
        """Bytes that this tensor adds to the activations: none if its storage was seen, or is a
        parameter's or an input's.
        """
        size = 0
        for identity, nbytes in storages(tensor):
            if identity in self.seen:
                continue
            self.seen.add(identity)
            kind = (
                "parameter"
                if identity in self.parameters
                else "input"
                if identity in self.inputs
                else "activation"
            )
            self.entries.append(
                Saved(
                    node,
                    name,
                    nbytes,
                    kind,
                    read_shape(tensor),
                    str(tensor.dtype).removeprefix("torch."),
                )
            )
            if kind == "activation":
                size += nbytes
        return size


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
def _names(kind: type) -> tuple[str, ...]:
    """Names of the attributes under which a class of C++ nodes keeps tensors."""
    return tuple(name for name in dir(kind) if name.startswith(_RAW))


def _slots(function: Any) -> Iterator[tuple[str, Any]]:
    """(name, SavedTensor) of everything that a node has saved; lists of tensors one by one."""
    kind: type = type(function)
    for name in _names(kind):
        try:
            value = getattr(function, name)
        except (RuntimeError, AttributeError):  # freed by backward
            continue
        short = name.removeprefix(_RAW)
        if isinstance(value, tuple):
            yield from ((short, saved) for saved in value if saved is not None)
        elif value is not None:
            yield short, value


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
