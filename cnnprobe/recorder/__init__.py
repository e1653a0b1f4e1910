"""Runs or watches a forward pass and leaves the model as it was.

`observe` makes one forward pass of its own and puts everything back. `Recording` watches the user's
own calls and changes nothing.
"""

import contextlib
import itertools
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as dataclass_replace
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import nn

from cnnprobe.errors import TargetError
from cnnprobe.recorder.assembly import assemble, no_collection
from cnnprobe.recorder.copying import copy_lazy
from cnnprobe.recorder.devices import wait_for_devices
from cnnprobe.recorder.execution import (
    describe_exported,
    describe_postponed,
    describe_sealed,
    find_exported,
    find_sealed,
    has_fixed_mode,
    has_scripts,
    is_compiled,
    list_modes,
    observable,
    restore_modes,
    run_eagerly,
    switch_mode,
)
from cnnprobe.recorder.inventory import FUSED, check_model, has_lazy
from cnnprobe.recorder.module_tree import ModuleTree
from cnnprobe.recorder.peers import describe_peers, without_peers
from cnnprobe.recorder.preservation import (
    StateGuard,
    end_checkpoints,
    is_sharded,
    own_passes,
    preserved,
    preserved_generators,
)
from cnnprobe.recorder.rows import Closed
from cnnprobe.recorder.sightings import Summary
from cnnprobe.recorder.sources import hide_frames, thread_id
from cnnprobe.recorder.threads import Threads, describe_threads
from cnnprobe.recorder.watching import Watcher
from cnnprobe.records.trace import Trace, is_within
from cnnprobe.stats import Pages

# a training loop of any length stays in bounds; `forwards` still counts them all
KEPT_TRACES = 1_000
TRACED = "torch.ops.higher_order."  # operators that trace or compile the functions given to them
_FRAMES_A_CALL = 8  # Python frames that hooks and the function mode add to one level of nesting

__all__ = [
    "TRACED",
    "Observation",
    "Recording",
    "Witness",
    "has_fixed_mode",
    "has_scripts",
    "is_compiled",
    "is_sharded",
    "list_modes",
    "observable",
    "observe",
    "preserved",
    "restore_modes",
    "run_eagerly",
    "switch_mode",
]


class Witness(Protocol):
    """Sees every tensor that a recorded call puts out, in order, in place of its statistics."""

    def see(self, tensor: torch.Tensor) -> dict[str, float | int] | None:
        """Called as soon as `tensor` is there; what comes back stands as its statistics in the
        trace.
        """

    def about_to_write(self, tensor: torch.Tensor) -> None:
        """Called before an operation writes to the memory of `tensor`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one forward pass gave: its trace, and in memory only the model's output or the
    exception.
    """

    trace: Trace
    output: Any = None
    error: BaseException | None = None


class Recording:
    """A context manager around the user's own forward passes of a model: no extra pass, nothing
    changed, nothing left behind.

    `trace` is that of the latest call, `traces` those of the latest thousand, `forwards` counts
    all.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        statistics: bool | Summary | Pages = True,
        guard: StateGuard | None = None,
        through_compiled: bool = False,
        is_unseen: bool = False,
        names: Mapping[int, str] | None = None,
        tree: ModuleTree | None = None,
    ) -> None:
        self._model = model
        if tree is None:
            tree = _find_tree(model)
        self._tree = tree
        self._traces: deque[Trace] = deque(maxlen=KEPT_TRACES)
        summarise_by = statistics or None
        if summarise_by is True:
            summarise_by = Pages(histogram=False)
        self._sealed = find_sealed(self._tree, through_compiled=through_compiled)
        if self._sealed:
            self._tree.left_out = frozenset(
                k for k, fqn in enumerate(self._tree.fqns) if is_within(fqn, self._sealed)
            )
        self._watcher = Watcher(
            model,
            self._tree,
            summarise=summarise_by,
            guard=guard,
            on_root=_finish_of(self),
            is_unseen=is_unseen,
        )
        self._watcher.hooks.stays_compiled = self._is_compiled = "compiled" in self._sealed.values()
        self._threads = Threads(self._watcher)
        self._watcher.sightings.names = dict(
            names or {}
        )  # of tensors by their ids, before the model's own
        self._limit = 0
        self.forwards = 0

    @property
    def traces(self) -> tuple[Trace, ...]:
        """The traces of the calls so far, oldest first."""
        return tuple(self._traces)

    @property
    def trace(self) -> Trace:
        """The trace of the latest call."""
        if not self._traces:
            raise TargetError(
                "nothing was recorded",
                where=f"record({type(self._model).__name__})",
                fix="call the model inside the with block",
            )
        return self._traces[-1]

    @property
    def given(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the latest call, while the block lasts."""
        return self._watcher.given

    def find_maker(self, tensor: torch.Tensor) -> int | None:
        """The row of the call, of the pass that is being recorded, that made a tensor."""
        return self._watcher.sightings.maker_of(tensor)

    @property
    def reads(self) -> tuple[tuple[int, float], ...]:
        """The rows, of the pass that is being recorded, whose values were taken out of torch, each
        with the number; NaN where it is no single one.
        """
        return tuple(self._watcher.sightings.reads)

    def list_alive(self) -> frozenset[int]:
        """The rows, of the pass that is being recorded, of which somebody holds a result."""
        return self._watcher.sightings.list_alive()

    def pause(self) -> bool:
        """Leave out what the current call computes until `resume`; False if nothing is recorded."""
        return self._watcher.pause()

    def resume(self) -> None:
        """Record the functions of the current call again."""
        self._watcher.resume()

    def attach(self) -> None:
        """Hook the modules; nothing is recorded before `start`, in the thread that calls it."""
        with no_collection():
            self._watcher.hooks.attach(self._watcher)

    def start(self) -> None:
        """Record the functions between the modules too, and allow for the frames of hooks."""
        self._watcher.thread = thread_id()
        self._watcher.others = self._threads
        self._threads.is_open = True
        self._limit = sys.getrecursionlimit()
        sys.setrecursionlimit(
            self._limit + _FRAMES_A_CALL * (2 + max(fqn.count(".") for fqn in self._tree.fqns))
        )
        if not self._is_compiled:  # a compiler would trace through our function mode
            self._watcher.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Record nothing more."""
        self._threads.is_open = False
        if not self._is_compiled:
            self._watcher.__exit__(None, None, None)
        sys.setrecursionlimit(self._limit)
        self._watcher.thread = -1  # whatever is still called until the hooks are off

    def detach(self) -> None:
        """Take the hooks off, and let go of the arguments."""
        self._watcher.hooks.detach()
        self._watcher.others = None  # a cycle
        self._watcher.given = ((), {})

    def __enter__(self) -> Self:
        self.attach()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.detach()
        hide_frames(error)
        if self._watcher.rows:  # an interrupt: the hooks that end a call were not called
            self._watcher.error = error
            self._watcher.finish_root()

    def _finish(self, watcher: Watcher, rows: list[Closed]) -> None:
        self.forwards += 1
        rows = self._threads.take(rows)
        is_over = not rows or rows[0][-1] is None or rows[0][-1].completed
        error = None if is_over else watcher.error
        exported = find_exported(self._tree)
        limits = (
            _limits(self._tree, watcher),
            describe_threads(rows),
            describe_postponed(rows),
            _describe_traced(rows),
            describe_sealed(self._sealed),
            describe_exported(exported),
            describe_peers(self._tree.model),
        )
        told = [*watcher.notes, *itertools.chain(*limits)]
        trace = assemble(self._tree, rows, error=error, notes=told)
        opaque = (*self._sealed, *exported)
        self._traces.append(dataclass_replace(trace, opaque=opaque) if opaque else trace)


def _finish_of(recording: Recording) -> Callable[[Watcher, list[Closed]], None]:
    """What finishes a root call. The watcher must not hold the recording: in a cycle the traces and
    the model would stay in memory until the garbage collector comes by.
    """
    reference = weakref.ref(recording)

    def finish(watcher: Watcher, rows: list[Closed]) -> None:
        found = reference()
        if found is not None:
            found._finish(watcher, rows)

    return finish


def _describe_traced(rows: Sequence[Closed]) -> Iterator[str]:
    """The operators that trace or compile the functions that they are given, in a sentence."""
    kinds = {row[0] for row in rows if type(row[0]) is str and row[0].startswith(TRACED)}
    if kinds:
        yield (
            f"{', '.join(sorted(kinds))} compiled the functions given to it: what they call is not "
            "shown"
        )


def _limits(tree: ModuleTree, watcher: Watcher) -> Iterator[str]:
    """What could not be observed as it otherwise runs, in sentences."""
    if (
        watcher.hooks.has_fused
        and not torch.is_grad_enabled()
        and any(isinstance(m, FUSED) and not m.training for m in tree.modules)
    ):
        yield (
            "hooks switch off the fused fast path of nn.TransformerEncoder and "
            "nn.MultiheadAttention: the ordinary path was observed"
        )


def _find_tree(model: nn.Module) -> ModuleTree:
    """The modules of what is surely a model."""
    with no_collection():
        if isinstance(model, nn.Module):
            with contextlib.suppress(AttributeError):  # a module without a place for others
                return ModuleTree(model)
        return ModuleTree(check_model(model, "the model to record"))


def observe(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    statistics: bool = True,
    witness: Witness | None = None,
    within: Sequence[contextlib.AbstractContextManager[Any]] = (),
) -> Observation:
    """One forward pass, neutrally observed: model, inputs and random generators are bit for bit as
    they were.

    An exception of the forward is kept in the Observation; an interrupt goes on to the caller with
    `observation` as its attribute. `within` is entered around the forward alone, and sees nothing
    of our own looking.
    """
    tree = _find_tree(model)
    if has_lazy(tree):
        model = copy_lazy(model)  # its first forward gives it its class and shapes for good
        tree = ModuleTree(model)
    # One pass can afford histograms, a training loop could not.
    measure = Pages(histogram=True) if statistics else False
    asked = measure if witness is None else witness.see
    recording = Recording(
        model, statistics=asked, through_compiled=True, tree=tree, is_unseen=bool(within)
    )
    output, error = None, None
    with (
        own_passes(),
        without_peers(tree),
        preserved_generators(),
        preserved(tree, args, kwargs) as (guard, notes),
        run_eagerly(tree) as more,
    ):
        guard.on_write = None if witness is None else witness.about_to_write
        recording._watcher.guard = guard
        try:
            # what is written down in one pass would have it searched five times
            with _enter_all(within), recording, no_collection():
                output = model(*args, **kwargs)
                with torch._C.DisableTorchFunction():  # nor is this seen
                    wait_for_devices((args, kwargs, output))
        except Exception as raised:  # the forward's own: it is what the report is about
            error = raised
            end_checkpoints(error)
        except BaseException as interrupt:
            interrupt.observation = _observation(recording, model, None, interrupt, [*notes, *more])  # type: ignore[attr-defined]
            raise
    return _observation(recording, model, output, error, [*notes, *more])


def _enter_all(
    managers: Sequence[contextlib.AbstractContextManager[Any]],
) -> contextlib.ExitStack:
    """All of them entered in order, as one that leaves them."""
    with contextlib.ExitStack() as stack:
        for each in managers:
            stack.enter_context(each)
        return stack.pop_all()


def _observation(
    recording: Recording,
    model: nn.Module,
    output: Any,
    error: BaseException | None,
    notes: list[str],
) -> Observation:
    trace = (
        recording.traces[-1] if recording.traces else assemble(ModuleTree(model), (), error=error)
    )
    if notes:
        trace = dataclass_replace(trace, notes=(*trace.notes, *notes))
    return Observation(trace=trace, output=_detached(output), error=error)


def _detached(output: Any) -> Any:
    """The output without its graph, so that a report keeps no activation alive."""
    try:
        return torch.utils._pytree.tree_map(
            lambda value: value.detach() if isinstance(value, torch.Tensor) else value, output
        )
    except RecursionError:  # it contains itself, or is nested beyond Python's limit
        return output
