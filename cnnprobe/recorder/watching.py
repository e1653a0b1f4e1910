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
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.overrides import TorchFunctionMode

from cnnprobe.recorder import cost, sources
from cnnprobe.recorder.functions import FunctionOperation, operation_of
from cnnprobe.recorder.hooking import Hooks, Told
from cnnprobe.recorder.module_tree import ModuleTree
from cnnprobe.recorder.preservation import StateGuard
from cnnprobe.recorder.rows import CallRow, Closed, ModuleRow, close, more_of
from cnnprobe.recorder.sightings import Sightings, Summary, UnseenSightings
from cnnprobe.recorder.values import PLAIN, argument_leaves, leaves
from cnnprobe.stats import Pages

_push = torch._C._push_on_torch_function_stack
_pop = torch._C._pop_torch_function_stack
_depth = torch._C._len_torch_function_stack
_sequence = getattr(torch._C._autograd, "_get_sequence_nr", lambda: 0)
_backward_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)
_clock = time.perf_counter
_thread = sources.thread_id

_OURS = {__file__, str(pathlib.Path(__file__).with_name("threads.py"))}


def _stranger() -> "Watcher":
    """What the hooks in a copy of a watched model belong to: it watches nothing."""
    return Watcher(
        nn.Identity(),
        ModuleTree(nn.Identity()),
        summarise=None,
        guard=None,
        on_root=lambda *_: None,
    )


class Watcher(TorchFunctionMode):
    """Records the calls below one model on one thread, from entering to leaving; `on_root` gets the
    rows of each root call.
    """

    def __init__(
        self,
        model: nn.Module,
        tree: ModuleTree,
        *,
        summarise: Summary | Pages | None,
        guard: StateGuard | None,
        on_root: Callable[["Watcher", list[Closed]], None],
        is_unseen: bool = False,  # by other function modes
    ) -> None:
        super().__init__()
        self.model = model
        self.tree = tree
        self.guard = guard
        self.on_root = on_root
        self.hooks = Hooks(tree)
        self.sightings = (UnseenSightings if is_unseen else Sightings)(tree, summarise)
        self.watched, self.notes = self.hooks.watched, self.sightings.notes
        self.rows: list[CallRow | Closed] = []
        self.current: ModuleRow | None = None
        self.others: Told | None = None  # told of calls on other threads
        # to the latest root call, until the recording ends
        self.given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self.error: BaseException | None = None
        self.thread = sources.thread_id()

    def __deepcopy__(self, memo: object) -> "Watcher":
        return _stranger()  # a copy of the model is a stranger to us

    def __reduce__(self) -> tuple[Any, ...]:
        return _stranger, ()

    @property
    def is_running(self) -> bool:
        """Whether a call of a watched module goes on."""
        return self.current is not None

    # -- the function mode's place on torch's stack ------------------------------------------------

    def __exit__(self, *_: object) -> None:
        """Take this mode off, and no other: another recording that began later may end later, and
        after an interrupt inside of a stock layer it is off already.
        """
        above = []
        while _depth() and (top := _pop()) is not self:
            above.append(top)
        for mode in reversed(above):
            _push(mode)

    def _is_on_stack(self) -> bool:
        return any(torch._C._get_function_stack_at(i) is self for i in range(_depth()))

    def _suspend(self) -> bool:
        """Take the mode off the stack if it is the top one; False if a mode of the user's lies
        above it, or it is off already.
        """
        try:
            top = _pop()
        except RuntimeError:  # nothing is on it
            return False
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
        # torch.cond compiles what it is given, hooks too
        place = None if is_dynamo_compiling() else self.watched.get(id(module))
        if place is None or _thread() != self.thread:
            if place is not None and self.others is not None:
                self.others.enter(module, args, kwargs)
            return
        try:
            suspended = self._suspend()
            kind, parent, rows = self.hooks.kinds[place], self.current, self.rows
            row = ModuleRow()
            row.module, row.kind, row.of = module, kind, place
            row.parent, row.position = parent, len(rows)
            row.given = row.made = row.more = None
            if _backward_task() != -1:
                more_of(row).recomputed = True
            if parent is None:
                self.given = (args, kwargs)
            row.source = (
                parent.source
                if parent is not None
                and parent.kind.is_chain
                and "forward" not in parent.module.__dict__
                else sources.of_module_call(parent)
            )
            if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
                row.given = self.sightings.see_given(args[0], "", row)
            else:
                self.sightings.read_inputs(row, args, kwargs)
            rows.append(row)
            self.current = row
            if self.guard is not None and kind.is_leaf:
                attributes = module.__dict__
                if attributes.get("inplace") or attributes.get("max_norm") is not None:
                    self.guard.about_to_run(module, args)
            row.suspended = suspended and kind.is_plain
            if suspended and not kind.is_plain:
                _push(self)
            row.first = row.last = _sequence()
            row.began = row.ended = _clock()
        except Exception as error:  # the user's forward goes on, whatever we stumble over
            self.stumble(module, error)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: object = None) -> None:
        """The forward hook of every module: it has returned, or has raised (`output` is then
        None).
        """
        if is_dynamo_compiling():
            return
        ended, last = _clock(), _sequence()
        row = self.current
        if row is None or row.module is not module or _thread() != self.thread:
            if self.others is not None and _thread() != self.thread:
                self.others.leave(module, args, output)
                return
            row = self._open_row(module)
            if row is None:
                return
        try:
            suspended = row.suspended or self._suspend()
            row.ended, row.last = ended, last
            parent, position = row.parent, row.position
            if type(output) is Tensor and row.kind.is_leaf:
                row.made = self.sightings.note(output, "", position)
            elif (
                output is None
                and (error := sys.exc_info()[1]) is not None
                and _was_raised_by_caller(error)
            ):
                more_of(row).completed = False
                self.error = error
            else:
                self.sightings.read_outputs(row, output)
            self.rows[position] = close(row)
            self.current = parent
            if parent is None:
                self.finish_root()
            if suspended:
                _push(self)
        except Exception as error:  # see above
            self.stumble(module, error)

    def _open_row(self, module: nn.Module) -> ModuleRow | None:
        """The row of a module's call, below which an exception of another kind has left rows open;
        None for a call that is not watched.
        """
        row = self.current if id(module) in self.watched and _thread() == self.thread else None
        while row is not None and row.module is not module:
            row = row.parent
        return row

    def stumble(self, module: nn.Module, error: Exception) -> None:
        """Our own recording failed: say so, and let the user's forward go on."""
        self._tell_stumble(module, error)
        row = self.current
        if row is not None and row.module is module and not hasattr(row, "ended"):
            row.suspended, row.first, row.last = False, _sequence(), _sequence()
            row.began = row.ended = _clock()
        if not self.hooks.stays_compiled and not self._is_on_stack():
            _push(self)

    def _tell_stumble(self, module: nn.Module, error: Exception) -> None:
        fqn = self.tree.fqns[self.watched[id(module)]]
        raised = f"{type(error).__name__}: {error}"
        self.notes[f"'{fqn}' was not recorded in full ({raised}); please report this"] = None

    def finish_root(self) -> None:
        """Hand on the rows of a root call, those too that an interrupt has left open."""
        self.close_open_rows()
        with torch._C.DisableTorchFunction():  # other function modes need not see us look
            self.on_root(self, self.rows)  # type: ignore[arg-type]
        self.rows = []
        self.sightings.forget()
        self.error = None

    def close_open_rows(self) -> None:
        """Put what an interrupt has left open to its end."""
        for row in self.rows:
            if isinstance(row, CallRow):
                more_of(row).completed = False
                self.rows[row.position] = close(row)

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
        if is_dynamo_compiling():  # for torch.cond, which traces modes too
            return func(*args, **kwargs)
        parent = self.current
        operation = operation_of(func)
        if self.guard is not None and (operation.writes or operation.exposes or "out" in kwargs):
            self._guard_arguments(self.guard, operation, args, kwargs)
        if parent is None or operation.ignored or parent.suspended:
            if operation.reads and parent is not None:
                self.sightings.note_read(args)
            return func(*args, **kwargs)
        if parent.kind.is_leaf:
            return self._inside_leaf(parent, operation, args, kwargs)
        row = CallRow()
        row.of, row.parent, row.position = operation.kind, parent, len(self.rows)
        row.given = row.made = row.more = None
        try:
            self.sightings.read_inputs(row, args, kwargs)
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
            if operation.reads:
                self.sightings.note_read(args, output)
            if operation.writes:
                self.sightings.last_write = row.position + 1
            gave_nothing = output is None or type(output) in PLAIN
            if not gave_nothing and (type(output) is Tensor or self._holds_tensor(output)):
                row.position = len(self.rows)
                self.sightings.read_outputs(row, output)
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
                    self.sightings.read_outputs(row, args[0])
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


def _was_raised_by_caller(error: BaseException) -> bool:
    """Whether the exception that is being handled came up to the code that called the hook asking
    this; else it was there before.
    """
    trace = error.__traceback__
    caller: FrameType | None = sys._getframe(2)
    while caller is not None and caller.f_code.co_filename in _OURS:  # on another thread
        caller = caller.f_back
    return trace is not None and trace.tb_frame is caller
