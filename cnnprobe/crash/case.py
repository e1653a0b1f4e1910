"""One crash with everything known about it, and the questions that the reasoning asks of it."""

import contextlib
import linecache
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from cnnprobe.recorder.inventory import class_of, is_leaf, named_modules
from cnnprobe.trace import ModuleCall, TensorInfo, Trace


@dataclass(kw_only=True)
class Case:
    """A failed forward: the exception, the trace up to it, and the live model and arguments, which are only looked at."""

    error: BaseException
    trace: Trace
    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    lenient: bool = False  # a room of the reasoning that stumbles over this model is passed over

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Every module by each of its names."""
        return {fqn: module for fqn, module, _ in named_modules(self.model)}

    @cached_property
    def index(self) -> int | None:
        """Index of the failing row."""
        return self.trace.failure.call if self.trace.failure is not None else None

    @property
    def call(self) -> ModuleCall | None:
        """The failing row."""
        return None if self.index is None else self.trace.calls[self.index]

    @property
    def module(self) -> nn.Module | None:
        """The module of the failing row, if it is a module's."""
        call = self.call
        return None if call is None or call.fqn is None else self.modules.get(call.fqn)

    @property
    def leaf(self) -> nn.Module | None:
        """The failing module where it is a stock layer: what raised is then torch's own code in it."""
        module = self.module
        return module if module is not None and is_leaf(module) else None

    @property
    def owner(self) -> str:
        """Fqn of the module whose own forward made the failing call (the failing module itself if its own code raised)."""
        call = self.call
        if call is None:
            return ""
        if call.fqn is not None and self.leaf is None:
            return call.fqn
        return self.module_above(call.parent)

    def module_above(self, index: int | None) -> str:
        """Fqn of the innermost module whose row is `index` or above it."""
        while index is not None:
            call = self.trace.calls[index]
            if call.fqn is not None:
                return call.fqn
            index = call.parent
        return ""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that the failing call was given."""
        return self.call.inputs if self.call is not None else ()

    def producer(self, info: TensorInfo) -> ModuleCall | None:
        """The call that made a tensor."""
        return self.trace.calls[info.source] if isinstance(info.source, int) else None

    def lineage(self, info: TensorInfo) -> Iterator[tuple[int, ModuleCall]]:
        """The rows on the main path back to the input, latest first: always through the first input that some call made."""
        seen: set[int] = set()
        source = info.source
        while isinstance(source, int) and source not in seen:
            seen.add(source)
            call = self.trace.calls[source]
            yield source, call
            outside = [t for t in call.inputs if not isinstance(t.source, str)]
            source = next((t.source for t in outside if isinstance(t.source, int)), None)

    def lineage_to_input(self, info: TensorInfo) -> list[tuple[int, ModuleCall]]:
        """The main path, earliest first."""
        return list(self.lineage(info))[::-1]

    def origin(self, info: TensorInfo) -> str:
        """Which call made a tensor, in words."""
        if isinstance(info.source, str):
            return f"the parameter '{info.source}'"
        call = self.producer(info)
        if call is None:
            return "the input" if self.is_input(info) else "outside the recorded calls"
        return self.name_of(call)

    def name_of(self, call: ModuleCall) -> str:
        """A call in words: 'conv1' (Conv2d), torch.flatten at net.py:12."""
        if call.fqn is not None:
            return f"{quoted(call.fqn)} ({call.kind})"
        place = short(call.source)
        return f"{call.kind}" + (f" at {place}" if place else "")

    def is_input(self, info: TensorInfo) -> bool:
        """Whether a tensor came as an argument of the model, as far as shapes, types and strides tell."""
        if info.source is not None or not self.trace.calls:
            return False
        return any(_alike(t, info) for t in self.root_inputs)

    def root_of(self, info: TensorInfo) -> TensorInfo | None:
        """The tensor that the model was given from which another came: itself, or the first on its main path."""
        if info.source is None:
            return next((t for t in self.root_inputs if _alike(t, info)), None)
        first = next(iter(self.lineage_to_input(info)), None)
        found = (
            (self.root_of(t) for t in first[1].inputs if t.source is None)
            if first is not None
            else ()
        )
        return next((t for t in found if t is not None), None)

    def attribute_of(self, info: TensorInfo) -> tuple[str, str] | None:
        """The plain attribute of a module that a tensor was or was cut from, as far as shape, dtype and device tell: fqn and name."""
        if info.source is not None:
            first = next(iter(self.lineage_to_input(info)), None)
            root = (
                next((t for t in first[1].inputs if t.source is None), None)
                if first is not None
                else None
            )
            return None if root is None else self.attribute_of(root)
        for fqn, module in self.modules.items():
            for name, value in module.__dict__.items():
                if isinstance(value, torch.Tensor) and (
                    tuple(value.shape),
                    str(value.device),
                    str(value.dtype).removeprefix("torch."),
                ) == (info.shape, info.device, info.dtype):
                    return fqn, name
        return None

    def bounds(self, info: TensorInfo) -> tuple[float, float] | None:
        """Least and greatest value of a tensor: as recorded, or read from the argument that it was."""
        if info.stats is not None and "min" in info.stats:
            return info.stats["min"], info.stats["max"]
        for value in tree_leaves((self.args, dict(self.kwargs))):
            if (
                isinstance(value, torch.Tensor)
                and tuple(value.shape) == info.shape
                and value.stride() == info.strides
                and value.numel()
            ):
                with contextlib.suppress(RuntimeError, NotImplementedError):
                    low, high = torch.aminmax(value.detach())
                    return float(low), float(high)
        return None

    @property
    def root_inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that the model itself was given."""
        return self.trace.calls[0].inputs if self.trace.calls else ()

    @property
    def batch(self) -> int | None:
        """The first size of the model's first tensor."""
        return (
            self.root_inputs[0].shape[0] if self.root_inputs and self.root_inputs[0].shape else None
        )

    def owner_of_parameter(self, fqn: str) -> str:
        """The module that a parameter belongs to."""
        return fqn.rpartition(".")[0]

    def outermost_starting_with(self, fqn: str) -> str:
        """The outermost of torch's own containers (below the root) that was handed what arrived at `fqn`: the part that got the wrong thing."""
        call = self.call
        if call is None or call.fqn != fqn or not call.inputs:
            return fqn
        best, above = fqn, call.parent
        while above is not None and above != 0:
            parent = self.trace.calls[above]
            container = self.modules.get(parent.fqn or "")
            if (
                container is None
                or not class_of(container).__module__.startswith("torch.nn.")
                or not self._handed_on(above)
            ):
                break
            best, above = parent.fqn or "", parent.parent
        return best

    def _handed_on(self, above: int) -> bool:
        """Whether nothing between the entry of a container and the failing call has changed the shape of what it was given."""
        shape = self.inputs[0].shape
        given = self.trace.calls[above].inputs
        between = self.trace.calls[above + 1 : self.index]
        weighted = any(
            c.fqn is not None and (m := self.modules.get(c.fqn)) is not None and m._parameters
            for c in between
        )
        return bool(given) and given[0].shape == shape and not weighted


def _alike(a: TensorInfo, b: TensorInfo) -> bool:
    return (a.shape, a.dtype, a.strides, a.device) == (b.shape, b.dtype, b.strides, b.device)


def quoted(fqn: str) -> str:
    """A module's name in quotes; the root has none."""
    return f"'{fqn}'" if fqn else "the model"


def named(case: Case, fqn: str) -> str:
    """'fc1' (Linear), or the model's class."""
    module = case.modules.get(fqn)
    kind = class_of(module).__name__ if module is not None else ""
    return f"{quoted(fqn)} ({kind})" if kind else quoted(fqn)


def short(source: str) -> str:
    """A source without its folders: net.py:12."""
    return source.replace("\\", "/").rpartition("/")[2]


def line_of(source: str) -> str:
    """The text of the line that a source names."""
    path, _, number = source.rpartition(":")
    return linecache.getline(path, int(number)).strip() if path and number.isdigit() else ""


def size(shape: tuple[int, ...]) -> int:
    """Number of elements."""
    return math.prod(shape)


def product(shape: tuple[int, ...]) -> str:
    """128 x 4 x 4 = 2048."""
    return " x ".join(map(str, shape)) + (f" = {math.prod(shape)}" if len(shape) > 1 else "")


def values(call: ModuleCall, position: int, name: str) -> Any:
    """A plain argument of a recorded call, by position or name; a tuple where it was one, None where it was not given."""
    given = call.arguments
    for path in (f"[{position}]", name):
        if path in given:
            return given[path]
        parts = [given[key] for key in given if key.startswith(path + "[")]
        if parts:
            return tuple(parts)
    return None


def tensor(call: ModuleCall, position: int, name: str) -> TensorInfo | None:
    """A tensor argument of a recorded call, by position or name."""
    paths = {f"[{position}]", name} | ({""} if position == 0 else set())
    return next((t for t in call.inputs if t.path in paths), None)


def operation(call: ModuleCall) -> str:
    """The bare name of a function: "view", "cat"; "" for a module."""
    return "" if call.fqn is not None else call.kind.rpartition(".")[2]


def is_floating(dtype: str) -> bool:
    """Whether a dtype's name is that of a floating-point type."""
    found = getattr(torch, dtype, None)
    return isinstance(found, torch.dtype) and found.is_floating_point
