"""Puts a model, its inputs and the random generators back bit for bit after a forward pass, however
it ended.

Buffers, attributes and flags are copied beforehand. Parameters and inputs are large and hardly ever
written to, so they are copied only when an operation is about to write to their storage
(`StateGuard.about_to_write`).
"""

import contextlib
import contextvars
import functools
import operator
import random
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils import checkpoint

from cnnprobe.recorder.assembly import no_collection
from cnnprobe.recorder.devices import outliving_devices
from cnnprobe.recorder.inventory import Entry
from cnnprobe.recorder.values import argument_leaves

_CONTAINERS = (dict, list, set)


def storage_key(tensor: Tensor) -> int | None:
    """The identity of the memory behind a tensor; None where it has none of the ordinary kind."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except Exception:  # sparse, fake, functional and wrapper tensors have no storage to speak of
        return None


class StateGuard:
    """Copies, on the first write, of the storages that must be as they were."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        # told of each write before it happens
        self.on_write: Callable[[Tensor], None] | None = None
        self._guarded: dict[int, list[Tensor]] = {}
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}
        for tensor in tensors:
            key = storage_key(tensor)
            if key is not None:
                self._guarded.setdefault(key, []).append(tensor)
        self._versions = {id(t): read_version(t) for group in self._guarded.values() for t in group}

    def about_to_write(self, tensor: Tensor) -> None:
        """Keep a copy of what `tensor` shares with a guarded one, before it is written to."""
        if self.on_write is not None:
            self.on_write(tensor)
        key = storage_key(tensor)
        if key in self._guarded and key not in self._copies:
            with torch._C.DisableTorchFunction(), torch.no_grad():
                whole = _whole_storage(tensor)
                self._copies[key] = (whole, whole.clone())

    def about_to_run(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Keep copies of what a layer writes to by itself: its inputs where it works in place, the
        table that an Embedding with max_norm rescales as it looks rows up.
        """
        if module.__dict__.get("inplace"):
            for value in args:
                if isinstance(value, Tensor):
                    self.about_to_write(value)
        if module.__dict__.get("max_norm") is not None:
            for parameter in module._parameters.values():
                if parameter is not None:
                    self.about_to_write(parameter)

    def restore(self) -> list[Tensor]:
        """Put every written storage back; returns the tensors that changed although no write to
        them was seen.
        """
        with torch._C.DisableTorchFunction(), torch.no_grad():
            for whole, copy in self._copies.values():
                whole.copy_(copy)
        lost = []
        for key, group in self._guarded.items():
            for tensor in group:
                version = self._versions[id(tensor)]
                if version is not None and read_version(tensor) != version:
                    if key not in self._copies:
                        lost.append(tensor)
                    write_version(tensor, version)
        self._copies.clear()
        return lost


def _whole_storage(tensor: Tensor) -> Tensor:
    """All bytes of the storage behind a tensor, as a tensor of its own version counter."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def read_version(tensor: Tensor) -> int | None:
    """The count of in-place writes to a tensor; None where none is kept."""
    try:
        return tensor._version
    except RuntimeError:  # inference tensors have no version
        return None


def write_version(tensor: Tensor, version: int) -> None:
    """Set that count back, so that autograd sees no write."""
    # A graph that the user holds compares versions: a value put back must look untouched to it.
    setter = getattr(torch._C._autograd, "_unsafe_set_version_counter", None)
    if setter is not None:
        try:
            setter((tensor,), (version,))
        except TypeError:  # torch < 2.7 takes a single tensor
            setter(tensor, version)


class ModuleState:
    """Attributes, registries, buffers and gradients of every module of a model, as
    `named_modules` gives them.
    """

    def __init__(self, tree: Iterable[Entry]) -> None:
        self._modules = [(module, _Attributes(module)) for _, module, first in tree if first]
        self._sharded: list[Any] = [m for m, _ in self._modules if is_sharded(m)]
        self._classes = [type(module) for module, _ in self._modules]
        scripted = [m for m, _ in self._modules if isinstance(m, torch.jit.ScriptModule)]
        # their attributes live in C++; a frozen one has no mode
        self._modes = [(m, m.training) for m in scripted if hasattr(m, "training")]
        buffers = {
            id(b): b
            for module, _ in self._modules
            for b in module._buffers.values()
            if b is not None and not is_lazy(b)
        }
        with torch._C.DisableTorchFunction(), torch.no_grad():
            self._buffers = [
                (b, b.detach(), b.detach().clone(), read_version(b)) for b in buffers.values()
            ]
        self.parameters = list(
            {
                id(p): p
                for module, _ in self._modules
                for p in module._parameters.values()
                if p is not None
            }.values()
        )
        self._flags = [(p, p.requires_grad, p.grad) for p in self.parameters]

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients that were there."""
        return [grad for _, _, grad in self._flags if grad is not None]

    def restore(self) -> None:
        """Put everything back; what is still the same object is not touched."""
        for module in self._sharded:
            module.reshard()  # else FSDP takes the shards that are put back for whole parameters
        for (module, attributes), kind in zip(self._modules, self._classes, strict=True):
            if type(module) is not kind:
                module.__class__ = kind
            attributes.restore(module)
        for module, mode in self._modes:
            module.training = mode
        with outliving_devices():
            self._restore_buffers()
        for parameter, requires_grad, grad in self._flags:
            if parameter.grad is not grad:
                parameter.grad = grad
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)

    def _restore_buffers(self) -> None:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            for buffer, place, copy, version in self._buffers:
                if buffer.shape != place.shape:  # an observer of ranges resizes its own
                    buffer.data = place
                buffer.copy_(copy)
                if version is not None:
                    write_version(buffer, version)


def is_sharded(module: nn.Module) -> bool:
    """Whether fully_shard was applied to this module."""
    kind: type = type(module)
    return has_shards(kind)


@functools.lru_cache(maxsize=4096)
def has_shards(kind: type) -> bool:
    """Whether fully_shard has made this class of a module's own."""
    return any(base.__name__ == "FSDPModule" for base in kind.__mro__)


class _Attributes:
    """The attributes of a module, and what is in those that are plain containers, one level deep.

    Nearly all are found as they were: that is asked by few calls, as a module has some fifteen.
    """

    __slots__ = ("contents", "empty", "names", "values")

    def __init__(self, module: nn.Module) -> None:
        self.names = [*module.__dict__]
        self.values = [*module.__dict__.values()]
        containers = [v for v in self.values if isinstance(v, _CONTAINERS)]
        self.empty = [v for v in containers if not v]
        self.contents = [(v, v.copy()) for v in containers if v]

    def restore(self, module: nn.Module) -> None:
        """Put back what is no longer the same object."""
        current = module.__dict__
        if [*current] != self.names or not all(map(operator.is_, current.values(), self.values)):
            for name in [name for name in current if name not in self.names]:
                del current[name]
            current.update(zip(self.names, self.values, strict=True))
        for value in self.empty if any(self.empty) else ():
            value.clear()
        for value, content in self.contents:
            if not _has_same_items(value, content):
                value.clear()
                value.extend(content) if isinstance(value, list) else value.update(content)


def _has_same_items(value: Any, content: Any) -> bool:
    if len(value) != len(content):
        return False
    if isinstance(value, dict):
        return all(map(operator.is_, value, content)) and all(
            map(operator.is_, value.values(), content.values())
        )
    if isinstance(value, list):
        return all(map(operator.is_, value, content))
    return bool({id(item) for item in value} == {id(item) for item in content})


_OWN = contextvars.ContextVar("own_passes", default=False)


@contextlib.contextmanager
def preserved(
    tree: Iterable[Entry], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[StateGuard, list[str]]]:
    """Whatever a forward pass does inside, the model is afterwards as it was; the inputs too, where
    the guard is told of each write.
    """
    with no_collection():
        state = ModuleState(tree)
        inputs = [value for _, value in argument_leaves(args, kwargs) if isinstance(value, Tensor)]
        guard = StateGuard([*state.parameters, *state.gradients, *inputs])
    notes: list[str] = []
    try:
        yield guard, notes
    finally:
        lost: list[Tensor] = []
        with outliving_devices():
            lost = guard.restore()
        state.restore()
        if lost:
            notes.append(
                f"{len(lost)} parameters or inputs were written to by an operation that could not "
                "be seen, and were not put back"
            )


@contextlib.contextmanager
def own_passes() -> Iterator[None]:
    """Forward passes and steps in this block are ours: a monitor of the same model skips them."""
    token = _OWN.set(True)
    try:
        with own_cache():
            yield
    finally:
        _OWN.reset(token)


@contextlib.contextmanager
def own_cache() -> Iterator[None]:
    """Inside of the user's `parametrize.cached()`, what is computed in this block is not what the
    user's next forward gets.
    """
    kept = parametrize._cache
    parametrize._cache = {}
    try:
        yield
    finally:
        parametrize._cache = kept


def is_own_pass() -> bool:
    """Whether cnnprobe itself runs the model now."""
    return _OWN.get()


@contextlib.contextmanager
def preserved_generators() -> Iterator[None]:
    """Random generators (torch on every device, Python, NumPy if loaded) are afterwards as they
    were before.
    """
    cpu = torch.get_rng_state()
    devices = [module for module in _device_modules() if module.is_initialized()]
    states: list[Any] = []
    with outliving_devices():
        states = [module.get_rng_state_all() for module in devices]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    numpy = sys.modules.get("numpy.random")  # numpy loads it when it is first asked for
    python_state, numpy_state = random.getstate(), numpy.get_state() if numpy else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        for module, state in zip(devices, states, strict=False):  # none of a lost one
            with outliving_devices():
                module.set_rng_state_all(state)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        random.setstate(python_state)
        if numpy is not None:
            numpy.set_state(numpy_state)
        elif "numpy.random" in sys.modules:  # loaded meanwhile: as it is when new
            sys.modules["numpy.random"].seed()


def seed_generators(seed: int) -> None:
    """Seed torch's generators of the CPU and of each device in use.

    Where a device is not in use, `torch.manual_seed` keeps the seed for its first use, which may be
    the user's.
    """
    torch.default_generator.manual_seed(seed)
    for module in _device_modules():
        if module.is_initialized():
            module.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def _device_modules() -> list[Any]:
    return [torch.cuda] + (
        [torch.xpu] if hasattr(torch, "xpu") and hasattr(torch.xpu, "is_initialized") else []
    )


def end_checkpoints(error: BaseException) -> None:
    """End the checkpointed segments that raised. Older torch leaves their hooks on saved tensors
    in place for as long as somebody holds the error.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        if frame.f_code.co_filename == checkpoint.__file__:
            segment = frame.f_locals.get("gen")
            if isinstance(segment, types.GeneratorType):
                segment.close()
