"""What a value is, as plain data: tensors into TensorInfo, everything else into plain values or its
type name.
"""

import collections
import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from cnnprobe.recorder import twins
from cnnprobe.records.trace import Source, TensorInfo
from cnnprobe.stats import PageReading, Statistics

MOST_LEAVES = 2_000  # of one nested value; a list of a million floats is not worth a million rows
PLAIN = (bool, int, float, str, type(None))
DEFERRED: Final = ("generator", "coroutine", "async_generator")
"""The kinds of what runs only when somebody reads it."""

Form = tuple[tuple[int, ...], torch.dtype, torch.device, int, bool, tuple[int, ...] | None]
"""What many tensors have in common: shape, dtype, device, nbytes, requires_grad, strides."""
Sighting = tuple[Form, str, Source, object]
"""A tensor as it passed: its form, path, source, and its statistics. A bare tuple, since one is
made at every call, and the garbage collector need not search it.
"""
SHAPE: Final = 0  # in a form
FORM: Final = 0  # and in a sighting
PATH: Final = 1
SOURCE: Final = 2
FOUND: Final = 3


_device_names: dict[torch.device, str] = {}
EXACT = frozenset({Tensor, torch.nn.Parameter})  # subclasses may answer otherwise

shared: Callable[..., tuple[int, ...]] = functools.lru_cache(maxsize=8_192)(tuple)
"""The same tuple for equal shapes, or equal strides: a torch.Size is one that the garbage collector
never stops to look at.
"""


class _DtypeNames(dict[torch.dtype, str]):
    def __missing__(self, dtype: torch.dtype) -> str:
        name = self[dtype] = str(dtype).removeprefix("torch.")
        return name


dtype_name: Callable[[torch.dtype], str] = _DtypeNames().__getitem__
"""The short name, as in float32."""


def device_name(device: torch.device) -> str:
    """The name with its index, as in cuda:0."""
    name = _device_names.get(device)
    if name is None:
        name = _device_names[device] = str(device)
    return name


@functools.lru_cache(maxsize=8_192)
def _share_form(
    shape: torch.Size,
    strides: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    requires_grad: bool,
) -> Form:
    """The one form of all ordinary tensors that answer so."""
    return tuple(shape), dtype, device, math.prod(shape) * dtype.itemsize, requires_grad, strides


def read_form(tensor: Tensor) -> Form:
    """The form that a tensor of any layout and subclass has now; reads no values."""
    if type(tensor) in EXACT:
        try:
            return _share_form(
                tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad
            )
        except (
            RuntimeError,
            NotImplementedError,
            AttributeError,
            TypeError,
        ):  # sparse and nested tensors have no strides, or no single shape
            pass
    # A subclass may refuse any function, so it is read with its own overrides switched off.
    with torch._C.DisableTorchFunctionSubclass():
        return (
            read_shape(tensor),
            tensor.dtype,
            tensor.device,
            read_nbytes(tensor),
            tensor.requires_grad,
            _attempt(lambda: tuple(int(n) for n in tensor.stride()), None),
        )


def sight(tensor: Tensor, path: str, source: Source, found: object = None) -> Sighting:
    """A tensor as it is now, `found` being what was measured of it."""
    return read_form(tensor), path, source, found


def tensor_info(sighting: Sighting) -> TensorInfo:
    """What was sighted, as data."""
    info = twins.TensorInfo()
    form, info.path, info.source, found = sighting
    info.shape, dtype, device, info.nbytes, info.requires_grad, info.strides = form
    if isinstance(found, PageReading):
        found = found.get()
    info.dtype = dtype_name(dtype)
    info.device = _device_names.get(device) or device_name(device)
    info.stats, info.histogram = (
        (found.as_mapping(), found.histogram) if isinstance(found, Statistics) else (found, None)
    )
    info.__class__ = TensorInfo
    return info  # type: ignore[no-any-return]


def describe_tensor(tensor: Tensor, path: str, source: Source, found: object = None) -> TensorInfo:
    """The TensorInfo of a tensor as it is now."""
    return tensor_info(sight(tensor, path, source, found))


def read_shape(tensor: Tensor) -> tuple[int, ...]:
    """The sizes of a tensor of any kind; -1 for a dim of a nested one that has no single size, ()
    where it has no shape yet.
    """
    if _attempt(lambda: tensor.is_nested, False):
        sizes = range(tensor.dim())
        return tuple(_attempt(functools.partial(_read_size, tensor, i), -1) for i in sizes)
    return _attempt(lambda: tuple(int(n) for n in tensor.shape), ())  # type: ignore[no-any-return]


def _read_size(tensor: Tensor, dim: int) -> int:
    return int(tensor.size(dim))


def read_flat(tensor: Tensor) -> Tensor:
    """The values of a nested tensor, one after the other."""
    return torch.cat([part.reshape(-1) for part in tensor.detach().unbind()])


def read_dense(tensor: Tensor) -> Tensor:
    """The values of a tensor as an ordinary one: those of a sparse one, all shards of a distributed
    one (which all ranks must ask for).
    """
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        return tensor.coalesce().values()
    if tensor.layout is not torch.strided:
        return tensor.values()
    whole = getattr(tensor, "full_tensor", None)
    return tensor if whole is None else whole()


def is_ordinary(value: object) -> bool:
    """Whether all tensors of a nested value can be taken apart by their first dim: not sparse,
    nested or distributed ones.
    """
    tensors = [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor)]
    return all(
        t.layout is torch.strided and not t.is_nested and not hasattr(t, "full_tensor")
        for t in tensors
    )


def read_nbytes(tensor: Tensor) -> int:
    """The bytes of a tensor's elements, and of the indices of a sparse one; 0 where it does not
    tell.
    """
    return _attempt(lambda: _nbytes(tensor), 0)  # type: ignore[no-any-return]


def _nbytes(tensor: Tensor) -> int:
    if tensor.layout is torch.sparse_coo:
        return int(tensor._indices().nbytes + tensor._values().nbytes)
    if tensor.layout in (torch.sparse_csr, torch.sparse_csc):
        return int(tensor.values().nbytes + 2 * tensor.values().numel() * 8)
    return int(tensor.numel() * tensor.element_size())


def _attempt(read: Any, otherwise: Any) -> Any:
    try:
        return read()
    except Exception:  # any subclass may refuse any question, and a refusal is an answer too
        return otherwise


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of a nested value with their paths, in order, without recursion and without
    consuming iterators.

    Goes into tuples, lists, mappings and dataclasses; a value that contains itself is entered once.

    >>> list(leaves({"a": [1, None], "b": 2.0}))
    [("['a'][0]", 1), ("['a'][1]", None), ("['b']", 2.0)]
    """
    stack = [(path, value)]
    entered: set[int] = set()
    count = 0
    while stack and count < MOST_LEAVES:
        path, value = stack.pop()
        children = None if isinstance(value, Tensor) else _children(value, path)
        if children is None:
            count += 1
            yield path, value
        elif id(value) not in entered:
            entered.add(id(value))
            stack.extend(reversed(children))


def name_deferred(output: object) -> str:
    """What a forward gave back that runs only when somebody reads it, one of DEFERRED; "" where it
    has run.
    """
    name = type(output).__name__
    return name if name in DEFERRED else ""


def drop_output(output: object) -> None:
    """Close a coroutine that a forward gave back and nobody awaits: Python would warn of it."""
    if inspect.iscoroutine(output):
        output.close()


def _children(value: object, path: str) -> list[tuple[str, object]] | None:
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", None)
        if names and len(names) == len(value):
            return [(f"{path}.{name}", item) for name, item in zip(names, value, strict=True)]
        return [(f"{path}[{i}]", item) for i, item in enumerate(value[:MOST_LEAVES])]
    items = read_items(value)
    if items is not None:
        return [(f"{path}[{key!r}]", item) for key, item in items[:MOST_LEAVES]]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [
            (f"{path}.{f.name}", getattr(value, f.name, None)) for f in dataclasses.fields(value)
        ]
    return None


def read_items(value: object) -> list[tuple[object, object]] | None:
    """The items of a mapping that holds them; None for what is none, or may compute them when it is
    read.
    """
    if isinstance(value, dict):
        return list(dict.items(value))
    if isinstance(value, collections.UserDict):
        return list(value.data.items())
    return list(value.items()) if isinstance(value, types.MappingProxyType) else None


def argument_leaves(
    args: tuple[object, ...], kwargs: Mapping[str, object]
) -> Iterator[tuple[str, object]]:
    """The leaves of a call's arguments: "" for a sole positional one, else "[0]", and keywords by
    their names.
    """
    if len(args) == 1 and not kwargs:
        yield from leaves(args[0])
        return
    for i, value in enumerate(args):
        yield from leaves(value, f"[{i}]")
    for name, value in kwargs.items():
        yield from leaves(value, name)


def plain(value: object) -> object:
    """A value as it can stand in a report: itself if plain, "torch.float32"-like names, else its
    type in angle brackets.
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
        return str(value)
    if isinstance(value, tuple | list | torch.Size):
        return (
            tuple(plain(item) for item in value[:64])
            if _is_shallow(value)
            else f"<{type(value).__name__}>"
        )
    if isinstance(value, int | float | str):  # IntEnum, numpy scalars and the like
        return str(value)
    if value is Ellipsis or isinstance(value, slice):
        return repr(value) if _is_plain_slice(value) else "<slice>"
    return f"<{type(value).__name__}>"


def _is_plain_slice(value: object) -> bool:
    return value is Ellipsis or all(
        type(part) in PLAIN
        for part in (value.start, value.stop, value.step)  # type: ignore[attr-defined]
    )


def _is_shallow(value: object) -> bool:
    return all(
        not isinstance(item, tuple | list)
        or (len(item) < 9 and all(type(x) in PLAIN for x in item))
        for item in value  # type: ignore[attr-defined]
    )
