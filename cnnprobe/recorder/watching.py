"""Hooks and a function mode that write down every call of a model's modules, and of the functions
between them.

The hooks are per model, return None, survive deepcopy and pickle as inert objects, and are gone
afterwards. While our own code or the inside of a stock layer runs, the function mode is taken off
torch's stack: looking at a tensor is then no event, and costs nothing.

What runs at every call only writes down what cannot be told later: a small layer computes for five
microseconds, and each line here takes some hundredths of one. All else is left to assembly.
"""

import pathlib
import sys
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from cnnprobe.recorder import cost, sources
from cnnprobe.recorder.execution import CompiledCall, is_compiled_in_place
from cnnprobe.recorder.functions import FunctionOperation, operation_of
from cnnprobe.recorder.inventory import Kind, Kinds, ModuleTree, named_modules
from cnnprobe.recorder.preservation import StateGuard
from cnnprobe.recorder.rows import CallRow, Closed, ModuleRow, close, more_of
from cnnprobe.recorder.values import (
    FOUND,
    MOST_LEAVES,
    PATH,
    PLAIN,
    SHAPE,
    SOURCE,
    Sighting,
    argument_leaves,
    leaves,
    plain,
    sight,
)
from cnnprobe.stats import Statistics

_push = torch._C._push_on_torch_function_stack
_pop = torch._C._pop_torch_function_stack
_depth = torch._C._len_torch_function_stack
_sequence = getattr(torch._C._autograd, "_get_sequence_nr", lambda: 0)
_backward_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)
_clock = time.perf_counter
_thread = sources.thread_id

_OURS = {__file__, str(pathlib.Path(__file__).with_name("threads.py"))}

Summary = Callable[[Tensor], Statistics | dict[str, float | int] | None]


def _hook(
    module: nn.Module, key: int, before: Callable[..., None], after: Callable[..., None]
) -> None:
    """What register_forward_pre_hook and register_forward_hook(with_kwargs=True, always_call=True)
    do, without a handle for each of thousands.
    """
    module._forward_pre_hooks[key] = before
    module._forward_pre_hooks_with_kwargs[key] = True
    module._forward_hooks[key] = after
    module._forward_hooks_with_kwargs[key] = True
    module._forward_hooks_always_called[key] = True


def _unhook(module: nn.Module, key: int) -> None:
    module._forward_pre_hooks.pop(key, None)
    module._forward_pre_hooks_with_kwargs.pop(key, None)
    module._forward_hooks.pop(key, None)
    module._forward_hooks_with_kwargs.pop(key, None)
    module._forward_hooks_always_called.pop(key, None)


def _stranger() -> "Watcher":
    """What the hooks in a copy of a watched model belong to: it watches nothing."""
    return Watcher(
        nn.Identity(),
        ModuleTree(nn.Identity()),
        summarise=None,
        guard=None,
        on_root=lambda *_: None,
    )


class Elsewhere(Protocol):
    """Is told of the calls of watched modules on other threads."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """As the watcher's."""

    def leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        """As the watcher's."""


class Watcher(TorchFunctionMode):
    """Records the calls below one model on one thread, from entering to leaving; `on_root` gets the
    rows of each root call.
    """

    def __init__(
        self,
        model: nn.Module,
        tree: ModuleTree,
        *,
        summarise: Summary | None,
        guard: StateGuard | None,
        on_root: Callable[["Watcher", list[Closed]], None],
    ) -> None:
        super().__init__()
        self.model = model
        self.tree = tree
        self.summarise = summarise
        self.guard = guard
        self.on_root = on_root
        self.rows: list[CallRow | Closed] = []
        self.current: ModuleRow | None = None
        self.made: dict[int, Sighting] = {}  # by the id of the tensor, if that is `alive` still
        self.alive: dict[int, weakref.ref[Tensor]] = {}
        self.kinds: dict[int, Kind] = {}  # of the watched modules, by their ids
        self.places: dict[int, int] = {}  # theirs in the tree
        self.key = 0
        self.has_fused = False
        self.names: dict[int, str] = {}  # of parameters and buffers, by their ids
        self.knows_names = False
        self.notes: dict[str, None] = {}
        self.stays_compiled = False
        self.last_write = -1  # the latest row of a function that wrote to what was there
        self.registrations: RemovableHandle | None = None
        self.compiled_calls: list[CompiledCall] = []
        self.others: Elsewhere | None = None  # told of calls on other threads
        self.given: tuple[tuple[Any, ...], dict[str, Any]] = (
            (),
            {},
        )  # to the latest root call, until the recording ends
        self.error: BaseException | None = None
        self.thread = sources.thread_id()

    # -- attaching ---------------------------------------------------------------------------------

    def attach(self) -> None:
        """Hook every module of the model, once each."""
        self.key = RemovableHandle.next_id
        RemovableHandle.next_id = self.key + 1
        before, after, kinds = self.enter, self.leave, Kinds()
        for place, module in self.tree.watched():
            self._watch(place, module, kinds.of(module), before, after)
        self.registrations = register_module_module_registration_hook(self._register)

    def _watch(
        self,
        place: int,
        module: nn.Module,
        kind: Kind,
        before: Callable[..., None],
        after: Callable[..., None],
    ) -> None:
        self.kinds[id(module)] = kind
        self.has_fused |= kind.is_fused
        self.places[id(module)] = place
        if self.stays_compiled and is_compiled_in_place(module):
            self.compiled_calls.append(CompiledCall(module, self))
        else:
            _hook(module, self.key, before, after)

    def _register(self, parent: nn.Module, name: str, module: nn.Module | None) -> None:
        """A module is given to a parent: one that comes into the model during the forward pass is
        watched from now on.
        """
        place = self.places.get(id(parent))
        if place is None or module is None or id(module) in self.places or self.current is None:
            return
        above = f"{self.tree.fqns[place]}.{name}".lstrip(".")
        kinds = Kinds()
        for fqn, child, first in named_modules(module):
            if first and id(child) not in self.places:
                at = self.tree.append(f"{above}.{fqn}" if fqn else above, child)
                self._watch(at, child, kinds.of(child), self.enter, self.leave)

    def detach(self) -> None:
        """Take every hook off again, whatever happened since."""
        if self.registrations is not None:
            self.registrations.remove()
        for call in self.compiled_calls:
            call.remove()
        for place in self.places.values():
            _unhook(self.tree.modules[place], self.key)
        self.kinds, self.places = (
            {},
            {},
        )  # copies of the hooks that somebody made meanwhile fall silent

    def __deepcopy__(self, memo: object) -> "Watcher":
        return _stranger()  # a copy of the model is a stranger to us

    def __reduce__(self) -> tuple[Any, ...]:
        return _stranger, ()

    # -- the function mode's place on torch's stack ------------------------------------------------

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        if not self._is_on_stack():  # an interrupt hit the inside of a stock layer
            _push(self)
        super().__exit__(exc_type, exc_val, exc_tb)  # type: ignore[no-untyped-call]

    def _is_on_stack(self) -> bool:
        return any(torch._C._get_function_stack_at(i) is self for i in range(_depth()))

    def _suspend(self) -> bool:
        """Take the mode off the stack if it is the top one; False if a mode of the user's lies
        above it, or it is off already.
        """
        if not _depth():
            return False
        top = _pop()
        if top is self:
            return True
        _push(top)
        return False

    def pause(self) -> bool:
        """Take the mode off for what the current call does; `leave` puts it back where nobody
        resumes.
        """
        row = self.current
        if row is None or row.suspended:
            return False
        row.suspended = self._suspend()
        return row.suspended

    def resume(self) -> None:
        """Put the mode back."""
        if self.current is not None and self.current.suspended:
            self.current.suspended = False
            _push(self)

    # -- calls of modules --------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward pre-hook of every module: it is about to be called."""
        kind = self.kinds.get(id(module))
        if kind is None or _thread() != self.thread:
            if kind is not None and self.others is not None:
                self.others.enter(module, args, kwargs)
            return
        try:
            suspended = self._suspend()
            parent = self.current
            row = ModuleRow()
            row.module, row.kind, row.of = module, kind, self.places[id(module)]
            row.parent, row.position = parent, len(self.rows)
            row.given = row.made = row.more = None
            if _backward_task() != -1:
                more_of(row).recomputed = True
            if parent is None:
                self.given = (args, kwargs)
            row.source = (
                parent.source
                if parent is not None and parent.kind.is_chain
                else sources.of_module_call(parent)
            )
            if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
                row.given = self._given(args[0], "")
            else:
                self._read_inputs(row, args, kwargs)
            self.rows.append(row)
            self.current = row
            if self.guard is not None and kind.is_leaf:
                self._guard_leaf(self.guard, module, args)
            row.suspended = suspended and kind.is_plain
            if suspended and not kind.is_plain:
                _push(self)
            row.first = row.last = _sequence()
            row.began = row.ended = _clock()
        except Exception as error:  # the user's forward goes on, whatever we stumble over
            self.stumble(module, error)

    def leave(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: object = None,
    ) -> None:
        """The forward hook of every module: it has returned, or has raised (`output` is then
        None).
        """
        ended, last = _clock(), _sequence()
        row = self.current
        if row is None or row.module is not module or _thread() != self.thread:
            if self.others is not None and _thread() != self.thread:
                self.others.leave(module, args, kwargs, output)
                return
            row = self._open_row(module)
            if row is None:
                return
        try:
            suspended = row.suspended or self._suspend()
            row.ended, row.last = ended, last
            if type(output) is Tensor and row.kind.is_leaf:
                row.made = self._note(output, "", row.position)
            elif (
                output is None
                and (error := sys.exc_info()[1]) is not None
                and _was_raised_by_caller(error)
            ):
                more_of(row).completed = False
                self.error = error
            else:
                self._read_outputs(row, output)
            self.rows[row.position] = close(row)
            self.current = row.parent
            if row.parent is None:
                self.finish_root()
            if suspended:
                _push(self)
        except Exception as error:  # see above
            self.stumble(module, error)

    def _open_row(self, module: nn.Module) -> ModuleRow | None:
        """The row of a module's call, below which an exception of another kind has left rows open;
        None for a call that is not watched.
        """
        row = self.current if id(module) in self.kinds and _thread() == self.thread else None
        while row is not None and row.module is not module:
            row = row.parent
        return row

    def stumble(self, module: nn.Module, error: Exception) -> None:
        """Our own recording failed: say so, and let the user's forward go on."""
        self._tell_stumble(module, error)
        if not self.stays_compiled and not self._is_on_stack():
            _push(self)

    def _tell_stumble(self, module: nn.Module, error: Exception) -> None:
        fqn = self.tree.fqns[self.places[id(module)]]
        self.notes[
            (
                f"'{fqn}' was not recorded in full ({type(error).__name__}: {error}); please "
                "report "
                "this"
            )
        ] = None

    def finish_root(self) -> None:
        """Hand on the rows of a root call, those too that an interrupt has left open."""
        self.close_open_rows()
        self.on_root(self, self.rows)  # type: ignore[arg-type]
        self.rows = []
        self.made.clear()
        self.alive.clear()
        self.last_write = -1
        self.error = None

    def close_open_rows(self) -> None:
        """Put what an interrupt has left open to its end."""
        for row in self.rows:
            if isinstance(row, CallRow):
                more_of(row).completed = False
                self.rows[row.position] = close(row)

    @staticmethod
    def _guard_leaf(guard: StateGuard, module: nn.Module, args: tuple[Any, ...]) -> None:
        if module.__dict__.get("inplace"):
            for value in args:
                if isinstance(value, Tensor):
                    guard.about_to_write(value)
        if (
            module.__dict__.get("max_norm") is not None
        ):  # nn.Embedding rescales its weight as it looks it up
            for parameter in module._parameters.values():
                if parameter is not None:
                    guard.about_to_write(parameter)

    # -- calls of functions ------------------------------------------------------------------------

    # In one piece: it runs at every call of a function, where a further frame would cost more than
    # the row.
    def __torch_function__(  # noqa: C901
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Record a torch function that a module's own forward calls."""
        kwargs = kwargs or {}
        parent = self.current
        operation = operation_of(func)
        if self.guard is not None and (operation.writes or operation.exposes or "out" in kwargs):
            self._guard_arguments(self.guard, operation, args, kwargs)
        if parent is None or operation.ignored or parent.suspended:
            return func(*args, **kwargs)
        if parent.kind.is_leaf:
            return self._inside_leaf(parent, operation, args, kwargs)
        row = CallRow()
        row.of, row.parent, row.position = operation.kind, parent, len(self.rows)
        row.given = row.made = row.more = None
        try:
            self._read_inputs(row, args, kwargs)
        except Exception as error:  # the user's forward goes on, whatever we stumble over
            self._tell_stumble(parent.module, error)
        if parent.more is not None and parent.more.recomputed:
            more_of(row).recomputed = True
        row.first, row.began = _sequence(), _clock()
        try:
            output = func(*args, **kwargs)
        except BaseException as error:
            row.ended, row.last = _clock(), _sequence()
            more_of(row).completed = False
            self._keep(row)
            if isinstance(error, Exception):
                self.error = error
            raise
        row.ended, row.last = _clock(), _sequence()
        try:
            if operation.writes:
                self.last_write = row.position + 1
            gave_nothing = output is None or type(output) in PLAIN
            if not gave_nothing and (type(output) is Tensor or self._holds_tensor(output)):
                row.position = len(self.rows)
                self._read_outputs(row, output)
                if operation.counting is cost.Counting.REPLAY and not cost.is_without_product(
                    operation.kind
                ):
                    more_of(row).pending = [(cost.pending(func, args, kwargs), operation.kind)]
                self._keep(row)
            elif (
                gave_nothing and operation.writes
            ):  # `x[i] = y` gives nothing back; x is then what this row made
                row.position = len(self.rows)
                if args and isinstance(args[0], Tensor):
                    self._read_outputs(row, args[0])
                more_of(row).returned = "NoneType" if row.made is not None else ""
                self._keep(row)
        except Exception as error:  # see above
            self._tell_stumble(parent.module, error)
        return output

    def _keep(self, row: CallRow) -> None:
        row.source = sources.of_function_call(sys._getframe(2), row.parent)
        self.rows.append(close(row))

    @staticmethod
    def _inside_leaf(
        parent: ModuleRow,
        operation: FunctionOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """A stock layer without a formula of its own (LSTM, attention): its products are counted
        for it, its functions are no rows.
        """
        if not parent.kind.is_plain and operation.counting in (
            cost.Counting.SHAPES,
            cost.Counting.REPLAY,
        ):
            more = more_of(parent)
            more.pending = [
                *(more.pending or ()),
                (cost.pending(operation.function, args, kwargs), operation.kind),
            ]
        return operation.function(*args, **kwargs)

    @staticmethod
    def _holds_tensor(output: object) -> bool:
        if output is None or type(output) in PLAIN or type(output) is torch.Size:
            return False
        return isinstance(output, Tensor) or any(
            isinstance(leaf, Tensor) for _, leaf in leaves(output)
        )

    def _guard_arguments(
        self,
        guard: StateGuard,
        operation: FunctionOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if operation.name == "backward":
            for tensor in [p.grad for p in self.model.parameters() if p.grad is not None]:
                guard.about_to_write(tensor)
            return
        for _, value in argument_leaves(
            args if operation.exposes or operation.name.startswith("_foreach") else args[:1], kwargs
        ):
            if isinstance(value, Tensor):
                guard.about_to_write(value)

    # -- reading values ----------------------------------------------------------------------------

    def maker_of(self, tensor: Tensor) -> int | None:
        """The row of the running root call that has put out this tensor."""
        found = self._known(tensor)
        return found[SOURCE] if found is not None and isinstance(found[SOURCE], int) else None

    def _known(self, tensor: Tensor) -> Sighting | None:
        """What a row has put out as this very tensor; another one may have its id by now."""
        found = self.made.get(id(tensor))
        return found if found is not None and self.alive[id(tensor)]() is tensor else None

    def _read_inputs(self, row: CallRow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found: list[Sighting] = []
        arguments: dict[str, object] = {}
        for path, value in argument_leaves(args, kwargs):
            if isinstance(value, Tensor):
                found.append(self._given(value, path))
            else:
                arguments[path] = plain(value)
        if len(found) == 1:
            row.given = found[0]
        elif found:
            more_of(row).inputs = tuple(found)
        if arguments:
            more_of(row).arguments = arguments

    def _given(self, tensor: Tensor, path: str) -> Sighting:
        known = self.made.get(id(tensor))
        if known is None or self.alive[id(tensor)]() is not tensor:
            return sight(tensor, path, self._name_of(tensor))
        try:
            if known[PATH] == path and known[SHAPE] == tensor.shape:
                return known
        except (RuntimeError, ValueError):  # nested, or a parameter that has no shape yet
            pass
        return sight(tensor, path, known[SOURCE], known[FOUND])

    def _name_of(self, tensor: Tensor) -> str | None:
        """The name of a parameter or buffer. They are looked at when a function is first given what
        no row has made.
        """
        if not self.knows_names and (self.current is not None or isinstance(tensor, nn.Parameter)):
            self.knows_names = True
            self.names = {**self.names, **self.tree.names_of_tensors()}
        return self.names.get(id(tensor))

    def _read_outputs(self, row: CallRow, output: object) -> None:
        if type(output) is not Tensor:
            more_of(row).returned = type(output).__name__
        if isinstance(output, Tensor):
            row.made = self._made(output, "", row)
            return
        found = [
            self._made(value, path, row)
            for path, value in leaves(output)
            if isinstance(value, Tensor)
        ]
        if found:
            more_of(row).outputs = tuple(found)
        if len(found) >= MOST_LEAVES:
            self.notes[
                (
                    f"an output of more than {MOST_LEAVES:,} tensors was recorded with the first "
                    f"{MOST_LEAVES:,}"
                )
            ] = None

    def _made(self, tensor: Tensor, path: str, row: CallRow) -> Sighting:
        known = self._known(tensor) if isinstance(row, ModuleRow) else None
        if known is not None and known[SOURCE] < self.last_write and tensor._is_view():  # type: ignore[operator]
            # its base may have been written to since: what stands there is read again
            found = self.summarise(tensor) if self.summarise is not None else None
            return sight(tensor, path, known[SOURCE], found)
        if known is not None:
            is_below = known[SOURCE] > row.position  # type: ignore[operator]
            if is_below and known[PATH] == path:
                return known  # a container hands on what a row below it has made
            if is_below or not row.kind.is_leaf:  # type: ignore[attr-defined]
                return sight(tensor, path, known[SOURCE], known[FOUND])
        return self._note(tensor, path, row.position)

    def _note(self, tensor: Tensor, path: str, position: int) -> Sighting:
        """Remember a tensor as what the row at `position` has made."""
        found = self.summarise(tensor) if self.summarise is not None else None
        made = self.made[id(tensor)] = sight(tensor, path, position, found)
        self.alive[id(tensor)] = weakref.ref(tensor)
        return made


def _was_raised_by_caller(error: BaseException) -> bool:
    """Whether the exception that is being handled came up to the code that called the hook asking
    this; else it was there before.
    """
    trace = error.__traceback__
    caller: FrameType | None = sys._getframe(2)
    while caller is not None and caller.f_code.co_filename in _OURS:  # on another thread
        caller = caller.f_back
    return trace is not None and trace.tb_frame is caller
