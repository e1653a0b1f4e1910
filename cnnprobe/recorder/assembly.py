"""Recorded rows into a Trace: frozen data that keeps neither model nor tensors."""

import contextlib
import gc
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from cnnprobe.recorder import cost, sources, twins
from cnnprobe.recorder.inventory import Kinds, class_of, named_modules, take_inventory
from cnnprobe.recorder.module_tree import ModuleTree
from cnnprobe.recorder.rows import NOTHING, Calls, Closed, More
from cnnprobe.recorder.values import Sighting, tensor_info
from cnnprobe.records.trace import Failure, ModuleCall, TensorInfo, Trace, is_within

_CALLS = torch.nn.Module._call_impl.__code__.co_filename


def assemble(
    tree: ModuleTree,
    rows: Sequence[Closed],
    *,
    error: BaseException | None = None,
    notes: Sequence[str] = (),
) -> Trace:
    """The Trace of one root call, the rows of which tell modules by their places in `tree`."""
    with no_collection():
        kinds = Kinds()
        modules, parameters = take_inventory(
            tree if tree.is_current() else named_modules(tree.model), kinds
        )
        assembler = _Assembler(tree, kinds)
        calls = tuple([assembler.call(row) for row in rows])
    devices = {p.device for p in parameters} or {
        t.device for call in calls[:1] for t in call.inputs
    }
    return Trace(
        model=class_of(tree.model).__name__,
        modules=modules,
        calls=calls,
        parameters=parameters,
        failure=None if error is None else _failure(error, calls, tree),
        device=", ".join(sorted(devices)) or "cpu",
        mode="meta" if devices == {"meta"} else "eager",
        torch=torch.__version__,
        notes=tuple(notes),
    )


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Many small lasting objects are made at once; the garbage collector would search them again
    and again, in vain.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Assembler:
    """Makes the calls of rows; what rows share is made once."""

    def __init__(self, tree: ModuleTree, kinds: Kinds) -> None:
        self._tree = tree
        self._kinds = kinds
        self._infos: dict[int, tuple[TensorInfo, ...]] = {}  # by the id of the sighting
        self._counts: dict[int, int] = {}
        self._depths: list[int] = []

    def call(self, row: Closed) -> ModuleCall:
        """The call of one row; they come in order."""
        draft = twins.ModuleCall()
        of, parent, given, made, draft.source, draft.seconds, first, last, more = row
        draft.parent = parent
        draft.depth = depth = 0 if parent is None else self._depths[parent] + 1
        self._depths.append(depth)
        draft.inputs = () if given is None else self._sole(given)
        draft.outputs = () if made is None else self._sole(made)
        if more is None:  # as nearly all
            draft.arguments, draft.completed, draft.returned = NOTHING, True, More.returned
            draft.recomputed, draft.thread, draft.sequence = False, "", (first, last)
        else:
            self._say_more(draft, more, first, last)
        if isinstance(of, int):
            self._say_of_module(draft, of, more)
        else:
            draft.fqn, draft.kind, draft.index = None, of, 0
            counted = None if more is None else more.pending
            draft.macs = _macs_of_function(draft) if counted is None else _settled(counted)
        draft.__class__ = ModuleCall
        return draft  # type: ignore[no-any-return]

    def _say_more(self, draft: Any, more: More, first: int, last: int) -> None:
        draft.inputs = draft.inputs or self._all(more.inputs)
        draft.outputs = draft.outputs or self._all(more.outputs)
        draft.arguments, draft.completed = more.arguments, more.completed
        draft.recomputed, draft.thread = more.recomputed, more.thread
        draft.returned = more.returned if more.completed else ""
        draft.sequence = (first, last) if more.completed else None

    def _say_of_module(self, draft: Any, place: int, more: More | None) -> None:
        module = self._tree.modules[place]
        kind = self._kinds.of(module)
        draft.fqn, draft.kind = self._tree.fqns[place], kind.name
        draft.index = index = self._counts.get(place, 0)
        self._counts[place] = index + 1
        if more is not None and more.pending is not None:
            draft.macs = _settled(more.pending)
        elif not draft.completed:
            draft.macs = 0
        elif kind.formula is not None and draft.inputs and draft.outputs:
            given, made = draft.inputs[0].shape, draft.outputs[0].shape
            # a nested tensor has a dim without a size, and one without a shape cannot be counted
            is_whole = given and made and -1 not in given
            draft.macs = kind.formula(module, given, made) if is_whole else None
        else:
            draft.macs = kind.macs

    def _sole(self, sighting: Sighting) -> tuple[TensorInfo, ...]:
        infos = self._infos.get(id(sighting))
        if infos is None:
            infos = self._infos[id(sighting)] = (tensor_info(sighting),)
        return infos

    def _all(self, sightings: tuple[Sighting, ...]) -> tuple[TensorInfo, ...]:
        return tuple([self._sole(sighting)[0] for sighting in sightings])


def _settled(pending: Calls) -> int | None:
    counted = [macs for call, kind in pending if (macs := cost.settle(call, kind)) is not None]
    return sum(counted) if counted else None


def _macs_of_function(call: Any) -> int | None:
    counting = cost.counting_of(call.kind)
    if counting is cost.Counting.MOVES or not call.completed or call.returned in ("NoneType", ""):
        return 0
    shapes = [info.shape for info in call.inputs]
    if counting is cost.Counting.SHAPES and call.outputs and all(shapes):
        is_whole = not any(-1 in shape for shape in shapes)
        return cost.of_function(call.kind, shapes, call.outputs[0].shape) if is_whole else None
    return None


def _failure(error: BaseException, calls: Sequence[ModuleCall], tree: ModuleTree) -> Failure:
    """Where the exception came from: the deepest row on the path of unfinished calls, or a hook of
    the user's on a module below.
    """
    index = _innermost(calls)
    module = next((call for call in _upwards(calls, index) if call.fqn is not None), None)
    fqn = (module.fqn or "") if module else ""
    hooked = _hooked_module(error, tree)
    return Failure(
        kind=type(error).__name__,
        message=_message(error),
        module=hooked if hooked is not None and is_within(hooked, [fqn]) else fqn,
        operation=calls[index].kind if index is not None else "",
        source=_users_line(error),
        traceback=_text(error),
        call=index,
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the user's own class may refuse
        return f"({type(error).__name__} gives no message)"


def _hooked_module(error: BaseException, tree: ModuleTree) -> str | None:
    """The fqn of the module that was being called, where what raised is no forward but a hook: its
    row is over, or has not begun.
    """
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == _CALLS and frame.f_code.co_name == "_call_impl":
            found = frame.f_locals.get("self")
    place = next((k for k, module in enumerate(tree.modules) if module is found), None)
    return None if place is None else tree.fqns[place]


def _innermost(calls: Sequence[ModuleCall]) -> int | None:
    """The last call that did not complete and whose callers did not either."""
    index: int | None = None
    broken: set[int] = set()
    for position, call in enumerate(calls):
        if not call.completed and (call.parent is None or call.parent in broken):
            broken.add(position)
            index = position
    return index


def _upwards(calls: Sequence[ModuleCall], index: int | None) -> list[ModuleCall]:
    path = []
    while index is not None:
        path.append(calls[index])
        index = calls[index].parent
    return path


def _users_line(error: BaseException) -> str:
    """The last line of the user's own in the traceback."""
    places = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    users = [f"{path}:{line}" for path, line in places if sources.is_users(path)]
    return users[-1] if users else ""


def _text(error: BaseException) -> str:
    """The traceback without the recorder's own frames."""
    summary = traceback.TracebackException.from_exception(error)
    summary.stack = traceback.StackSummary.from_list(
        [frame for frame in summary.stack if not sources.is_ours(frame.filename)]
    )
    return "".join(summary.format())
