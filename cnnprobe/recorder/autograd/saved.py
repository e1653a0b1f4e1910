"""What a graph keeps for backward: each storage once, without running anybody's unpack hook.

`_saved_self` and its like unpack: they run the hooks of `saved_tensors_hooks` and would recompute a
whole checkpointed segment. The raw SavedTensor lets one look at what was packed (torch 2.7 and
later; before, nothing is read and a note says so).
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cnnprobe.graph import Saved
from cnnprobe.recorder.values import EXACT, dtype_name, read_shape, shared

_RAW = "_raw_saved_"
_SAVED = getattr(torch._C._autograd, "SavedTensor", None)
READABLE = hasattr(_SAVED, "unpack_hook")


@dataclass(slots=True)
class SavedLedger:
    """What a graph keeps, each storage once, and what is to be said of its nodes."""

    kinds: Mapping[int, str]  # "parameter" or "input" of the storages that are no activation
    entries: list[Saved] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # bytes of activations that each node keeps
    marks: dict[int, tuple[str, ...]] = field(default_factory=dict)  # by node
    slots: int = 0  # tensors that were looked for
    found: int = 0

    def book(self, functions: Sequence[Any]) -> None:
        """Enter the storages of what these nodes keep, each at the first that keeps it.

        It runs once a kept tensor: hence one loop, and no calls that can be spared.
        """
        sizes = self.sizes = [0] * len(functions)
        seen = set[int]()
        new, add, kind_of = tuple.__new__, self.entries.append, self.kinds.get
        parts: Iterable[tuple[int, int]]
        for node, name, tensor in self._find_kept(functions):
            try:
                storage = tensor.untyped_storage()
                parts, shape = ((storage._cdata, storage.nbytes()),), shared(tensor.shape)
                if type(tensor) not in EXACT:
                    shape = read_shape(tensor)
            except (RuntimeError, NotImplementedError, ValueError):  # a sparse or a nested one
                parts, shape = storages(tensor), read_shape(tensor)
            for identity, nbytes in parts:
                if identity not in seen:
                    seen.add(identity)
                    kind = kind_of(identity, "activation")
                    add(new(Saved, (node, name, nbytes, kind, shape, dtype_name(tensor.dtype))))
                    if kind == "activation":
                        sizes[node] += nbytes

    def _find_kept(self, functions: Sequence[Any]) -> Iterator[tuple[int, str, Tensor]]:
        """The tensors that are kept: position of the node, what it calls the tensor, the tensor."""
        for node, function in enumerate(functions):
            kind: type = type(function)
            names, is_custom = _describe(kind)
            for name, short in names:
                try:
                    saved = getattr(function, name)
                except (RuntimeError, AttributeError):  # freed by backward
                    continue
                if type(saved) is not _SAVED or saved.unpack_hook is not None:
                    for each in saved if type(saved) is tuple else (saved,):
                        yield from self._unpack(node, short, each, function)
                    continue
                self.slots += 1
                if (tensor := saved.data) is not None:
                    self.found += 1
                    if tensor._version and _is_overwritten(function, short):
                        self._mark(node, "overwritten")
                    yield node, short, tensor
            if is_custom:
                yield from ((node, name, tensor) for name, tensor in _kept_as_attributes(function))

    def _unpack(
        self, node: int, name: str, saved: Any, function: Any
    ) -> Iterator[tuple[int, str, Tensor]]:
        """The same of one tensor: one of a list, or one that a hook has packed."""
        if saved is None:
            return
        self.slots += 1
        packed = saved.data
        if saved.unpack_hook is not None:
            self.found += 1
            is_recomputed = type(packed).__name__ in ("_Holder", "_Handle")
            self._mark(node, "recomputed" if is_recomputed else "packed by a hook")
            yield from ((node, name, tensor) for tensor in _tensors(packed))
        elif packed is not None:
            self.found += 1
            if packed._version and _is_overwritten(function, name):
                self._mark(node, "overwritten")
            yield node, name, packed

    def _mark(self, node: int, mark: str) -> None:
        marks = self.marks.get(node, ())
        self.marks[node] = marks if mark in marks else (*marks, mark)


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
