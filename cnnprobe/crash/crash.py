"""One crash with everything known about it, and the questions that the causes ask of it."""

import contextlib
import functools
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.facts.frames import find_called_method, find_frames
from cnnprobe.crash.facts.words import quote, shorten
from cnnprobe.recorder import sources
from cnnprobe.recorder.inventory import class_of, is_leaf, named_modules
from cnnprobe.records.trace import Failure, ModuleCall, TensorInfo, Trace

if TYPE_CHECKING:
    from cnnprobe.crash.trials import Trials


_Fact = TypeVar("_Fact")
NOTHING_SEEN = Trace(model="")  # of a crash whose forward was not recorded
_SCALER = "torch/amp/grad_scaler.py"
_STARTS = ("torch/_tensor.py", "torch/autograd/__init__.py")


@dataclass(frozen=True, kw_only=True)
class LoopLine:
    """A line of the loop that a model stands for: its arguments are what is read there."""

    names: tuple[str, ...]  # of the arguments, with what made them: "'mask' (F.one_hot at x.py:3)"
    samples: int | None  # the batch of the latest forward of the user's model
    # Whether what comes after it runs with a value in its place, and some names changed.
    follows: Callable[[Any, Mapping[str, Callable[[Any], Any]]], bool]


@dataclass(kw_only=True)
class Crash:
    """Everything that is known of one crash, of whichever stage. Only `error` is needed.

    The model and its arguments are looked at, never changed. What is left out is read from the
    frames of the exception where they hold it.
    """

    error: BaseException
    model: nn.Module | None = None
    trace: Trace = NOTHING_SEEN  # of the latest forward
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    loss: Any = None
    loss_fn: Any = None
    targets: Any = None
    optimizer: Any = None
    ranges: tuple[tuple[str, int, int], ...] = ()  # of the indices that were given on a GPU
    causes: tuple[Any, ...] = ()  # causes of the user's own, beside those that are built in
    line: LoopLine | None = None  # of a line of the loop, which is explained as a forward
    trials: "Trials | None" = field(default=None, repr=False)  # set by the engine
    is_lenient: bool = False  # a cause that stumbles over this model is passed over
    memory: dict[Any, Any] = field(default_factory=dict, repr=False)  # by what `find_once` wraps

    def tolerate(self) -> contextlib.AbstractContextManager[None]:
        """Where it is lenient, what one cause or one trial raises costs no more than that."""
        return contextlib.suppress(Exception) if self.is_lenient else contextlib.nullcontext()

    @cached_property
    def stage(self) -> str:
        """Where the exception came from: "forward", "loss", "backward" or "step"."""
        stage = ""
        for frame, _ in traceback.walk_tb(self.error.__traceback__):
            path, name = frame.f_code.co_filename.replace("\\", "/"), frame.f_code.co_name
            if "/torch/optim/" in path or (path.endswith(_SCALER) and name != "scale"):
                stage = "step"
            elif path.endswith(_STARTS) and name in ("backward", "grad"):
                stage = "backward"
            elif stage == "step" and sources.is_users(path):
                stage = ""  # a closure, which runs forward and loss inside of the step
        if not stage and find_called_method(self.error) is not None:
            stage = "step"
        if stage:
            return stage
        return "forward" if self.trace.failure is not None else "loss"

    @property
    def source(self) -> str:
        """The user's line that failed: that of the failing row, else of the innermost frame."""
        failure, call = self.trace.failure, self.call
        if self.stage == "forward" and failure is not None:
            return failure.source or (call.source if call is not None else "")
        frames = find_frames(self.error)
        return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""

    def find_last_layer(self) -> str | None:
        """Fqn of the layer with weights that was called last."""
        for call in reversed(self.trace.calls):
            module = self.modules.get(call.fqn) if call.fqn is not None else None
            if module is not None and module._parameters and not module._modules:
                return call.fqn
        return None

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Every module by each of its names; none where the model is not known."""
        if self.model is None:
            return {}
        return {fqn: module for fqn, module, _ in named_modules(self.model)}

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Every parameter of the model, once for each module that holds it."""
        found = [p for m in self.modules.values() for p in m._parameters.values()]
        return [p for p in found if p is not None]

    @cached_property
    def index(self) -> int | None:
        """Index of the failing row."""
        return self.trace.failure.call if self.trace.failure is not None else None

    @cached_property
    def call(self) -> ModuleCall | None:
        """The failing row."""
        return None if self.index is None else self.trace.calls[self.index]

    @cached_property
    def module(self) -> nn.Module | None:
        """The module of the failing row, if it is a module's."""
        call = self.call
        return None if call is None or call.fqn is None else self.modules.get(call.fqn)

    @cached_property
    def leaf(self) -> nn.Module | None:
        """The failing module where it is a stock layer, in whose code torch raised."""
        module = self.module
        return module if module is not None and is_leaf(module) else None

    @property
    def owner(self) -> str:
        """Fqn of the module whose own forward made the failing call, or whose own code raised."""
        if (call := self.call) is None:
            return ""
        if call.fqn is not None and self.leaf is None:
            return call.fqn
        return self.find_module_above(call.parent)

    def find_module_above(self, index: int | None) -> str:
        """Fqn of the innermost module whose row is `index` or above it."""
        while index is not None:
            call = self.trace.calls[index]
            if call.fqn is not None:
                return call.fqn
            index = call.parent
        return ""

    @cached_property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that the failing call was given."""
        return self.call.inputs if self.call is not None else ()

    def find_producer(self, info: TensorInfo) -> ModuleCall | None:
        """The call that made a tensor."""
        return self.trace.calls[info.source] if isinstance(info.source, int) else None

    def walk_back(self, info: TensorInfo) -> Iterator[tuple[int, ModuleCall]]:
        """The rows back to the input, latest first: always by the first input that a call made."""
        seen: set[int] = set()
        source = info.source
        while isinstance(source, int) and source not in seen:
            seen.add(source)
            call = self.trace.calls[source]
            yield source, call
            outside = [t for t in call.inputs if not isinstance(t.source, str)]
            source = next((t.source for t in outside if isinstance(t.source, int)), None)

    def list_path(self, info: TensorInfo) -> list[tuple[int, ModuleCall]]:
        """The main path, earliest first."""
        return list(self.walk_back(info))[::-1]

    def describe_origin(self, info: TensorInfo) -> str:
        """Which call made a tensor, in words."""
        if isinstance(info.source, str):
            owner, _, name = info.source.rpartition(".")
            is_buffer = owner in self.modules and name in self.modules[owner]._buffers
            return f"the {'buffer' if is_buffer else 'parameter'} '{info.source}'"
        if (call := self.find_producer(info)) is None and self.is_input(info):
            return self._describe_input(info)
        if call is None:
            found = self.find_attribute(info)
            return f"the attribute '{found[1]}'" if found else "outside the recorded calls"
        return self.describe_call(call)

    def _describe_input(self, info: TensorInfo) -> str:
        found = re.search(r"\d+", getattr(self.find_root(info), "path", ""))
        position = int(found[0]) if found is not None else 0
        names = self.line.names if self.line is not None else ()
        return names[position] if position < len(names) else "the input"

    def describe_call(self, call: ModuleCall) -> str:
        """A call in words: 'conv1' (Conv2d), torch.flatten at net.py:12."""
        if call.fqn is not None:
            return f"{quote(call.fqn)} ({call.kind})"
        place = shorten(call.source)
        return f"{call.kind}" + (f" at {place}" if place else "")

    def describe_module(self, fqn: str) -> str:
        """A module in words: 'fc1' (Linear), or the model's class."""
        module = self.modules.get(fqn)
        return quote(fqn) + (f" ({class_of(module).__name__})" if module is not None else "")

    def is_input(self, info: TensorInfo) -> bool:
        """Whether a tensor is an argument of the model, as far as shape, type and strides tell."""
        if info.source is not None or not self.trace.calls:
            return False
        return any(_alike(t, info) for t in self.root_inputs)

    def find_root(self, info: TensorInfo) -> TensorInfo | None:
        """The tensor that the model was given from which another came on its main path."""
        if info.source is None:
            return next((t for t in self.root_inputs if _alike(t, info)), None)
        first = next(iter(self.list_path(info)), None)
        found = (
            (self.find_root(t) for t in first[1].inputs if t.source is None)
            if first is not None
            else ()
        )
        return next((t for t in found if t is not None), None)

    def find_attribute(self, info: TensorInfo) -> tuple[str, str] | None:
        """The plain attribute that a tensor came from, as far as it looks alike: fqn and name."""
        if info.source is not None:
            first = next(iter(self.list_path(info)), None)
            root = (
                next((t for t in first[1].inputs if t.source is None), None)
                if first is not None
                else None
            )
            return None if root is None else self.find_attribute(root)
        for fqn, module in self.modules.items():
            for name, value in module.__dict__.items():
                if isinstance(value, torch.Tensor) and (
                    tuple(value.shape),
                    str(value.device),
                    str(value.dtype).removeprefix("torch."),
                ) == (info.shape, info.device, info.dtype):
                    return fqn, name
        return None

    def read_bounds(self, info: TensorInfo) -> tuple[float, float] | None:
        """Least and greatest value of a tensor: as recorded, or read from the argument."""
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

    @cached_property
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

    def find_container(self, fqn: str) -> str:
        """The outermost of torch's containers below the root that got what arrived at `fqn`."""
        if (call := self.call) is None or call.fqn != fqn or not call.inputs:
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
        """Whether what a container was given arrived at the failing call in the same shape."""
        shape = self.inputs[0].shape
        given = self.trace.calls[above].inputs
        between = self.trace.calls[above + 1 : self.index]
        weighted = any(
            c.fqn is not None and (m := self.modules.get(c.fqn)) is not None and m._parameters
            for c in between
        )
        return bool(given) and given[0].shape == shape and not weighted


def find_once(find: Callable[[Crash], _Fact]) -> Callable[[Crash], _Fact]:
    """A fact of a crash for which many causes ask: found at the first time, and remembered."""

    @functools.wraps(find)
    def remember(crash: Crash) -> _Fact:
        if find not in crash.memory:
            crash.memory[find] = find(crash)
        return crash.memory[find]  # type: ignore[no-any-return]

    return remember


def _alike(a: TensorInfo, b: TensorInfo) -> bool:
    return (a.shape, a.dtype, a.strides, a.device) == (b.shape, b.dtype, b.strides, b.device)


def to_failure(error: BaseException, stage: str, source: str, operation: str = "") -> Failure:
    """A Failure of another stage than the forward."""
    return Failure(
        kind=type(error).__name__,
        message=str(error),
        module="",
        operation=operation,
        source=source,
        traceback="".join(traceback.format_exception(error)),
        stage=stage,
    )
