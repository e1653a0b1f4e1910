"""A copy of a model on which repairs are tried: on the meta device, or a small real one."""

import contextlib
import copy
import io
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from cnnprobe.recorder import observe, sources
from cnnprobe.recorder.copying import copy_uninitialised
from cnnprobe.recorder.functions import operation_of
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.records.trace import Trace

LARGEST_COPY = 200_000_000  # elements that are really copied for a trial; 800 MB in float32
_DEEPEST = 4  # levels of plain lists and dicts in which modules and tensors are looked for

Rewriting = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True, kw_only=True)
class ShadowRun:
    """What came of one forward of the shadow."""

    trace: Trace
    works: bool
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    reached: int  # rows that were completed
    output: Any = None
    error: BaseException | None = None


class ModelCopy:
    """A copy of the model with its arguments, edits that can be taken back, and a forward."""

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        meta: bool,
        grad: bool = True,
    ) -> None:
        tensors = _list_tensors(model)
        if not meta and sum(t.numel() for t in tensors if not is_lazy(t)) > LARGEST_COPY:
            raise MemoryError
        twins: dict[int, Any] = _make_empty_twins(model)
        for value in tensors:
            twins[id(value)] = _twin(value, meta=meta)
        self.meta = meta
        self.grad = grad
        self.model: nn.Module = copy.deepcopy(model, twins)
        if meta:
            _lighten(self.model)
        _unwrap(self.model)
        self.args = tuple(_copied(value, meta=meta) for value in args)
        self.kwargs = {name: _copied(value, meta=meta) for name, value in kwargs.items()}
        self.rewrites: list[tuple[str, str, Rewriting]] = []
        self.undo: list[Callable[[], None]] = []
        self.autocast: torch.dtype | None = None  # the forward runs under it

    def module(self, fqn: str | None) -> nn.Module:
        """The shadow's module of a name; None: the root."""
        return next(m for name, m, _ in named_modules(self.model) if name == (fqn or ""))

    def set_module(self, fqn: str, module: nn.Module) -> None:
        """Put another module in the place of `fqn`, under all of its names."""
        old = self.module(fqn)
        if old is self.model:
            self.model = module
            self.undo.append(lambda: setattr(self, "model", old))
        for _, parent, _ in list(named_modules(self.model)):
            for name, child in list(parent._modules.items()):
                if child is old and parent is not module:
                    parent._modules[name] = module
                    self.undo.append(_put_back(parent._modules, name, old))

    def apply(self, edits: Iterable[Any]) -> None:
        """Make changes, with new layers on the device that the shadow is on."""
        first = next(iter(self.model.parameters()), None)
        with torch.device("meta" if self.meta else first.device if first is not None else "cpu"):
            for edit in edits:
                edit.apply(self)

    def rewrite(self, kind: str, source: str, function: Rewriting) -> None:
        """Do something else in place of the calls of a function on a line; "" is every line."""
        entry = (kind, source, function)
        self.rewrites.append(entry)
        self.undo.append(lambda: self.rewrites.remove(entry))

    def hook_inputs(self, module: nn.Module, change: Callable[..., Any]) -> None:
        """Change what a module is called with, before any other hook of it."""
        handle = module.register_forward_pre_hook(change, with_kwargs=True, prepend=True)
        self.undo.append(handle.remove)

    def reset(self, kept: int = 0) -> None:
        """Take every edit back but the first `kept` steps."""
        while len(self.undo) > kept:
            self.undo.pop()()

    def run(self) -> ShadowRun:
        """One forward pass, neutrally observed."""
        with hush(), torch.set_grad_enabled(self.grad), contextlib.ExitStack() as stack:
            self._enter(stack)
            seen = observe(self.model, self.args, self.kwargs, statistics=False)
        trace = seen.trace
        return ShadowRun(
            trace=trace,
            works=seen.error is None and (not self.meta or is_honest(self.model, trace)),
            shapes=tuple(info.shape for info in trace.calls[0].outputs) if trace.calls else (),
            parameters=sum(p.numel for p in trace.parameters if p.kind == "parameter"),
            reached=len(trace.calls)
            if seen.error is None
            else trace.failure.call or 0
            if trace.failure is not None
            else 0,
            output=seen.output,
            error=seen.error,
        )

    def _enter(self, stack: contextlib.ExitStack) -> None:
        """The device, the autocast and the changed calls of a forward."""
        if self.meta:
            stack.enter_context(torch.device("meta"))
        if self.autocast is not None:
            first = next(self.model.parameters(), torch.empty(0))
            kind = "cpu" if self.meta else first.device.type
            stack.enter_context(torch.autocast(kind, dtype=self.autocast))
        if self.rewrites:
            stack.enter_context(_Rewriter(self.rewrites))

    def backward(self) -> bool:
        """Whether a forward and a backward from everything that it gives pass."""
        with hush(), torch.enable_grad(), contextlib.ExitStack() as stack:
            self._enter(stack)
            output = self.model(*self.args, **self.kwargs)
            tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
            ends = [t.float().sum() for t in tensors]
            torch.autograd.backward(ends)
        return bool(ends)


def is_honest(model: nn.Module, trace: Trace) -> bool:
    """Whether no layer of a pass on meta got what only meta lets pass: another dtype, other
    channels, or a map so small that nothing comes out.
    """
    modules = {fqn: module for fqn, module, _ in named_modules(model)}
    for call in trace.calls:
        module = modules.get(call.fqn) if call.fqn is not None else None
        if (
            isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
            and call.inputs
            and not is_lazy(module.weight)
        ):
            if call.inputs[0].dtype != str(module.weight.dtype).removeprefix("torch."):
                return False
            if (
                isinstance(module, nn.modules.conv._ConvTransposeNd)
                and _channels(call.inputs[0].shape, module) != module.in_channels
            ):
                return False
            if 0 in call.outputs[0].shape and 0 not in call.inputs[0].shape:
                return False
    return True


def _channels(shape: tuple[int, ...], module: nn.modules.conv._ConvNd) -> int:
    axis = len(shape) - len(module.kernel_size) - 1
    return shape[axis] if 0 <= axis < len(shape) else -1


def _put_back(registry: dict[str, Any], name: str, value: Any) -> Callable[[], None]:
    return lambda: registry.__setitem__(name, value)


class _Rewriter(TorchFunctionMode):
    """Hands the calls of one function on one line to what is to stand there instead."""

    def __init__(self, rewrites: list[tuple[str, str, Rewriting]]) -> None:
        super().__init__()
        self.rewrites = rewrites

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the call, or what is to stand in its place."""
        if is_dynamo_compiling():  # for torch.cond, which traces modes too
            return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        kind = operation_of(func).kind
        wanted = [(source, rewrite) for name, source, rewrite in self.rewrites if name == kind]
        if wanted:
            here = sources.of_function_call(sys._getframe(1), None)
            # One block's line serves every copy of it, so that all of them have their turn.
            for source, rewrite in reversed(wanted):
                func = _rewritten(rewrite, func) if source in ("", here) else func
        return func(*args, **kwargs)


def _rewritten(rewrite: Rewriting, func: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: rewrite(func, args, kwargs)


@contextlib.contextmanager
def hush() -> Iterator[None]:
    """What the user's forward prints and warns of was said once already."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _make_empty_twins(model: nn.Module) -> dict[int, Any]:
    """Twins of the empty registries of hooks: deepcopy takes longer for them than for the rest."""
    modules = [module for _, module, first in named_modules(model) if first]
    values = [value for module in modules for value in module.__dict__.values()]
    return {id(v): OrderedDict() for v in values if type(v) is OrderedDict and not v}


def _list_tensors(model: nn.Module) -> list[Tensor]:
    """Every tensor that a model holds, also in plain attributes and in modules in plain lists."""
    found: dict[int, Tensor] = {}
    entered: set[int] = set()
    stack: list[tuple[Any, int]] = [(m, 0) for _, m, f in named_modules(model) if f]
    while stack:
        value, level = stack.pop()
        if isinstance(value, Tensor):
            found[id(value)] = value
            if value.grad_fn is None and value.grad is not None:
                found[id(value.grad)] = value.grad
            continue
        if id(value) in entered or level > _DEEPEST:
            continue
        entered.add(id(value))
        if isinstance(value, nn.Module):
            stack.extend((item, 0) for item in value.__dict__.values())
        elif isinstance(value, dict):
            stack.extend((item, level + 1) for item in value.values())
        elif isinstance(value, list | tuple):
            stack.extend((item, level + 1) for item in value)
    return list(found.values())


def _twin(tensor: Tensor, *, meta: bool) -> Tensor:
    """The shadow of a tensor: same shape, strides and dtype."""
    if is_lazy(tensor):
        return copy_uninitialised(tensor, "meta" if meta else None)
    with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        data = _on_meta(tensor) if meta else tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data.requires_grad_(tensor.requires_grad)


def _on_meta(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return tensor.detach().to("meta")
    return torch.empty_strided(
        tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device="meta"
    )


def _copied(value: Any, *, meta: bool) -> Any:
    return tree_map(
        lambda item: _twin(item, meta=meta) if isinstance(item, Tensor) else item, value
    )


def _lighten(model: nn.Module) -> None:
    """BatchNorm computes statistics even on meta, slowly; only its shape rules matter there."""
    for _, module, first in named_modules(model):
        if first and type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__dict__["forward"] = types.MethodType(_shape_of_batch_norm, module)


def _unwrap(model: nn.Module) -> None:
    """A wrapper that talks to the other ranks would wait for them: they try no repairs."""
    for _, module, first in named_modules(model):
        if first and isinstance(module, nn.parallel.DistributedDataParallel):
            module.__dict__["forward"] = types.MethodType(_forward_of_wrapped, module)


def _forward_of_wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self.module(*args, **kwargs)


def _shape_of_batch_norm(self: Any, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
    self._check_input_dim(input)
    if input.shape[1] != self.num_features:
        raise RuntimeError("the number of features differs from that of the channels")
    if self.training and input.numel() == input.shape[1]:
        raise ValueError("more than one value per channel is needed")
    return torch.empty_like(input)


def copy_model(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    meta: bool,
    grad: bool = True,
) -> ModelCopy | None:
    """A shadow, or None where the model cannot be copied or a real copy would be too large."""
    try:
        return ModelCopy(model, args, kwargs, meta=meta, grad=grad)
    except Exception:  # a lock, a generator, a foreign object: whatever cannot be copied
        return None


def bind(
    module: nn.Module, name: str, function: Callable[..., Any], undo: list[Callable[[], None]]
) -> None:
    """Give a shadow's module a method of its own."""
    before = module.__dict__.get(name)

    def put_back() -> None:
        module.__dict__.pop(name, None)
        if before is not None:
            module.__dict__[name] = before

    module.__dict__[name] = types.MethodType(function, module)
    undo.append(put_back)
