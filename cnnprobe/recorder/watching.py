"""Hooks and a function mode that write down every call of a model's modules, and of the functions between them.

The hooks are per model, return None, survive deepcopy and pickle as inert objects, and are gone afterwards. While our own code or
the inside of a stock layer runs, the function mode is taken off torch's stack: looking at a tensor is then no event, and costs nothing.
"""

import sys
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from cnnprobe import cost
from cnnprobe.recorder import sources
from cnnprobe.recorder.functions import Operation, operation_of
from cnnprobe.recorder.inventory import is_leaf
from cnnprobe.recorder.preservation import StateGuard
from cnnprobe.recorder.values import PLAIN, argument_leaves, describe_tensor, leaves, plain
from cnnprobe.stats import Statistics
from cnnprobe.trace import Source, TensorInfo

_push = torch._C._push_on_torch_function_stack
_pop = torch._C._pop_torch_function_stack
_depth = torch._C._len_torch_function_stack
_sequence = getattr(torch._C._autograd, "_get_sequence_nr", lambda: 0)
_backward_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)

NOTHING: Mapping[str, object] = {}
Tree = list[tuple[str, nn.Module, bool]]
Summary = Callable[[Tensor], Statistics | dict[str, float | int] | None]


class Row:
    """A call while it is being recorded. Defaults stand in the class: setting them for each of thousands of calls would cost more than the hook."""

    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    arguments: Mapping[str, object] = NOTHING
    returned = ""
    macs: int | None = 0
    pending: list[tuple[cost.Pending, str]] | None = None  # function calls inside a stock layer that are still to be counted
    completed = False
    failed = False
    suspended = False  # the function mode was taken off the stack for the time of this call
    module: nn.Module | None = None
    watch: "Watch | None" = None
    index = 0
    kind = ""
    source = ""
    seconds = 0.0
    sequence_start = sequence_end = 0
    recomputed = False
    caught: BaseException | None = None  # an exception that was being handled already when the call began

    def __init__(self, name: str | None, parent: "Row | None", position: int) -> None:
        self.name = name
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.position = position


class Watch:
    """What the hooks of one module need to know at each of its calls; stands in the module's hook dictionaries."""

    __slots__ = ("calls", "fqn", "inplace", "key", "leaf", "module", "plain", "renorm", "watcher")

    def __init__(self, watcher: "Watcher", module: nn.Module, fqn: str) -> None:
        self.watcher: Watcher | None = watcher
        self.module = module
        self.fqn = fqn
        self.leaf = is_leaf(module)
        self.plain = self.leaf and cost.is_plain(module)
        self.inplace = bool(self.leaf and module.__dict__.get("inplace"))
        self.renorm = module.__dict__.get("max_norm") is not None
        self.calls = 0
        self.key = 0


class Before:
    """The forward pre-hook of one module."""

    __slots__ = ("watch",)

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch = watch

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Enter the call of `module`."""
        watch = self.watch
        if watch is not None and watch.module is module and watch.watcher is not None:
            try:
                watch.watcher.enter(watch, args, kwargs)
            except Exception as error:  # the user's forward goes on, whatever we stumble over
                watch.watcher.stumble(watch, error)

    def __deepcopy__(self, memo: object) -> "Before":
        return type(self)()  # a copy of the model is a stranger to us

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class After(Before):
    """The forward hook of one module."""

    __slots__ = ()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object = None) -> None:  # noqa: ARG002
        """Leave the call of `module`; `output` is None too when it has raised."""
        watch = self.watch
        if watch is not None and watch.module is module and watch.watcher is not None:
            try:
                watch.watcher.leave(watch, output)
            except Exception as error:  # see above
                watch.watcher.stumble(watch, error)


def _hook(module: nn.Module, watch: Watch) -> None:
    """What register_forward_pre_hook and register_forward_hook(with_kwargs=True, always_call=True) do, without a handle for each of thousands."""
    key = watch.key = RemovableHandle.next_id
    RemovableHandle.next_id = key + 1
    module._forward_pre_hooks[key] = Before(watch)
    module._forward_pre_hooks_with_kwargs[key] = True
    module._forward_hooks[key] = After(watch)
    module._forward_hooks_with_kwargs[key] = True
    module._forward_hooks_always_called[key] = True


def _unhook(watch: Watch) -> None:
    module, key = watch.module, watch.key
    for registry in (
        module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs, module._forward_hooks,
        module._forward_hooks_with_kwargs, module._forward_hooks_always_called,
    ):  # fmt: skip
        registry.pop(key, None)


class Watcher(TorchFunctionMode):
    """Records the calls below one model on one thread, from entering to leaving; `on_root` gets the rows of each root call."""

    def __init__(
        self, model: nn.Module, tree: Tree, *, summarise: Summary | None, guard: StateGuard | None, on_root: Callable[["Watcher"], None]
    ) -> None:
        super().__init__()
        self.model = model
        self.tree = tree
        self.summarise = summarise
        self.guard = guard
        self.on_root = on_root
        self.rows: list[Row] = []
        self.current: Row | None = None
        self.made: dict[int, tuple[weakref.ref[Tensor], int, TensorInfo]] = {}
        self.watches: list[Watch] = []
        self.names: dict[int, str] = {}
        self.notes: dict[str, None] = {}
        self.other_threads = 0
        self.given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})  # to the latest root call, until the recording ends
        self.error: BaseException | None = None
        self.thread = sources.thread_id()

    # -- attaching ---------------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Hook every module of the model, once each."""
        for fqn, module, first in self.tree:
            if not first:
                continue
            self._name_tensors(module, fqn)
            if isinstance(module, torch.jit.ScriptModule):
                self.notes[
                    f"'{fqn or type(module).__name__}' is a scripted module: its inside runs without Python and was not observed"
                ] = None
                continue
            watch = Watch(self, module, fqn)
            self.watches.append(watch)
            _hook(module, watch)

    def _name_tensors(self, module: nn.Module, fqn: str) -> None:
        prefix = fqn + "." if fqn else ""
        for registry in (module._parameters, module._buffers):
            for name, tensor in registry.items():
                if tensor is not None:
                    self.names.setdefault(id(tensor), prefix + name)

    def detach(self) -> None:
        """Take every hook off again, whatever happened since."""
        for watch in self.watches:
            _unhook(watch)
            watch.watcher = None  # copies of the hooks that somebody made meanwhile fall silent

    # -- the function mode's place on torch's stack ------------------------------------------------------------------------

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        if not self._is_on_stack():  # an interrupt hit the inside of a stock layer
            _push(self)
        super().__exit__(exc_type, exc_val, exc_tb)  # type: ignore[no-untyped-call]

    def _is_on_stack(self) -> bool:
        return any(torch._C._get_function_stack_at(i) is self for i in range(_depth()))

    def _suspend(self) -> bool:
        """Take the mode off the stack if it is the top one; False if a mode of the user's lies above it, or it is off already."""
        if not _depth():
            return False
        top = _pop()
        if top is self:
            return True
        _push(top)
        return False

    # -- calls of modules --------------------------------------------------------------------------------------------------

    def enter(self, watch: Watch, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is about to be called."""
        if sources.thread_id() != self.thread:
            self.other_threads += 1
            return
        suspended = self._suspend()
        if self.current is None:
            self.given = (args, kwargs)
        row = Row(watch.fqn, self.current, len(self.rows))
        row.watch = watch
        row.module = watch.module
        row.index = watch.calls
        watch.calls += 1
        row.caught = sys.exc_info()[1]
        row.source = sources.of_module_call(sys._getframe(2), row.parent)
        row.recomputed = _backward_task() != -1
        self._read_inputs(row, args, kwargs)
        self.rows.append(row)
        self.current = row
        if self.guard is not None and watch.leaf:
            self._guard_leaf(self.guard, watch, args)
        if suspended and not watch.plain:
            _push(self)
        row.suspended = suspended and watch.plain
        row.sequence_start = _sequence()
        row.seconds = -time.perf_counter()

    def leave(self, watch: Watch, output: object) -> None:
        """A module has returned, or has raised (`output` is then None)."""
        seconds = time.perf_counter()
        sequence_end = _sequence()
        if sources.thread_id() != self.thread:
            return
        row = self.current
        while row is not None and row.watch is not watch:  # rows that an exception of another kind left open
            row = row.parent
        if row is None:
            return
        suspended = row.suspended or self._suspend()
        row.seconds += seconds
        row.sequence_end = sequence_end
        error = sys.exc_info()[1] if output is None else None
        if error is not None and error is not row.caught:
            self._fail(row, error)
        else:
            row.completed = True
            self._read_outputs(row, output)
        self.current = row.parent
        if row.parent is None:
            self._finish_root()
        if suspended:
            _push(self)

    def stumble(self, watch: Watch, error: Exception) -> None:
        """Our own recording failed: say so, and let the user's forward go on."""
        self.notes[f"'{watch.fqn}' was not recorded in full ({type(error).__name__}: {error}); please report this"] = None
        if not self._is_on_stack():
            _push(self)

    def _fail(self, row: Row, error: BaseException) -> None:
        row.failed = True
        self.error = error

    def _finish_root(self) -> None:
        self.on_root(self)
        self.rows = []
        self.made.clear()
        self.error = None
        for watch in self.watches:
            watch.calls = 0

    @staticmethod
    def _guard_leaf(guard: StateGuard, watch: Watch, args: tuple[Any, ...]) -> None:
        if watch.inplace:
            for value in args:
                if isinstance(value, Tensor):
                    guard.about_to_write(value)
        if watch.renorm:  # nn.Embedding(max_norm=...) rescales its weight as it looks it up
            for parameter in watch.module._parameters.values():
                if parameter is not None:
                    guard.about_to_write(parameter)

    # -- calls of functions ------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Record a torch function that a module's own forward calls."""
        kwargs = kwargs or {}
        parent = self.current
        operation = operation_of(func)
        if self.guard is not None and (operation.writes or operation.exposes or "out" in kwargs):
            self._guard_arguments(self.guard, operation, args, kwargs)
        if parent is None or operation.ignored or parent.suspended:
            return func(*args, **kwargs)
        if parent.watch is None or parent.watch.leaf:
            return self._inside_leaf(parent, operation, args, kwargs)
        row = Row(None, parent, len(self.rows))
        row.kind = operation.kind
        self._read_inputs(row, args, kwargs)
        row.recomputed = parent.recomputed
        row.sequence_start = _sequence()
        start = time.perf_counter()
        try:
            output = func(*args, **kwargs)
        except BaseException as error:
            row.seconds = time.perf_counter() - start
            row.sequence_end = _sequence()
            self._keep(row)
            if isinstance(error, Exception):
                self._fail(row, error)
            raise
        row.seconds = time.perf_counter() - start
        row.sequence_end = _sequence()
        if output is None or type(output) in PLAIN or type(output) is torch.Size:
            if operation.writes:
                row.completed = True
                self._keep(row)
                self._rewrite(row, args)
            return output
        if self._holds_tensor(output):
            row.completed = True
            self._keep(row)
            self._read_outputs(row, output)
            self._count(row, cost.of_function(func, operation.kind, args, kwargs, row), operation.kind)
        return output

    @staticmethod
    def _count(row: Row, macs: int | cost.Pending | None, kind: str) -> None:
        if isinstance(macs, cost.Pending):
            row.pending = [(macs, kind)]
        else:
            row.macs = macs

    @staticmethod
    def _inside_leaf(parent: Row, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A stock layer without a formula of its own (LSTM, attention): its products are counted for it, its functions are no rows."""
        if (
            parent.watch is not None
            and not parent.watch.plain
            and operation.name not in cost.MOVES
            and operation.name not in cost.ARITHMETIC
        ):
            parent.pending = parent.pending or []
            parent.pending.append((cost.pending(operation.function, args, kwargs), operation.kind))
        return operation.function(*args, **kwargs)

    def _keep(self, row: Row) -> None:
        row.position = len(self.rows)
        row.source = sources.of_function_call(sys._getframe(2), row.parent)
        self.rows.append(row)

    def _rewrite(self, row: Row, args: tuple[Any, ...]) -> None:
        """`x[i] = y` gives nothing back; x is then what this row made."""
        if args and isinstance(args[0], Tensor):
            self._read_outputs(row, args[0])
            row.returned = "NoneType"

    @staticmethod
    def _holds_tensor(output: object) -> bool:
        return isinstance(output, Tensor) or any(isinstance(leaf, Tensor) for _, leaf in leaves(output))

    def _guard_arguments(self, guard: StateGuard, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if operation.name == "backward":
            for tensor in [p.grad for p in self.model.parameters() if p.grad is not None]:
                guard.about_to_write(tensor)
            return
        for _, value in argument_leaves(args if operation.exposes or operation.name.startswith("_foreach") else args[:1], kwargs):
            if isinstance(value, Tensor):
                guard.about_to_write(value)

    # -- reading values ----------------------------------------------------------------------------------------------------

    def _read_inputs(self, row: Row, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
            row.inputs = (self._input(args[0], ""),)
            return
        found = []
        arguments: dict[str, object] = {}
        for path, value in argument_leaves(args, kwargs):
            if isinstance(value, Tensor):
                found.append(self._input(value, path))
            else:
                arguments[path] = plain(value)
        row.inputs = tuple(found)
        row.arguments = arguments

    def _input(self, tensor: Tensor, path: str) -> TensorInfo:
        known = self.made.get(id(tensor))
        if known is not None and known[0]() is tensor:
            info = known[2]
            if info.path == path and info.shape == tuple(tensor.shape):
                return info
            return describe_tensor(tensor, path, known[1], info.stats, info.histogram)
        return describe_tensor(tensor, path, self._origin(tensor))

    def _origin(self, tensor: Tensor) -> Source:
        return self.names.get(id(tensor)) if isinstance(tensor, nn.Parameter) or id(tensor) in self.names else None

    def _read_outputs(self, row: Row, output: object) -> None:
        row.returned = type(output).__name__
        if isinstance(output, Tensor):
            row.outputs = (self._output(output, "", row),)
        else:
            row.outputs = tuple(self._output(value, path, row) for path, value in leaves(output) if isinstance(value, Tensor))

    def _output(self, tensor: Tensor, path: str, row: Row) -> TensorInfo:
        known = self.made.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] > row.position and row.watch is not None:
            info = known[2]  # a container hands on what a row below it has made
            return info if info.path == path else describe_tensor(tensor, path, known[1], info.stats, info.histogram)
        if row.watch is not None and not row.watch.leaf and known is not None and known[0]() is tensor:
            return describe_tensor(tensor, path, known[1], known[2].stats, known[2].histogram)
        found = self.summarise(tensor) if self.summarise is not None else None
        stats, histogram = (found.as_mapping(), found.histogram) if isinstance(found, Statistics) else (found, None)
        info = describe_tensor(tensor, path, row.position, stats, histogram)
        self.made[id(tensor)] = (weakref.ref(tensor), row.position, info)
        return info
