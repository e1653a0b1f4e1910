"""Recorded rows into a Trace: frozen data that keeps neither model nor tensors."""

import contextlib
import gc
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from cnnprobe import cost
from cnnprobe.recorder import sources, twins
from cnnprobe.recorder.inventory import class_of, named_modules, take_inventory
from cnnprobe.trace import Failure, ModuleCall, Trace

if TYPE_CHECKING:
    from cnnprobe.recorder.watching import Row


def assemble(model: nn.Module, rows: Sequence["Row"], *, error: BaseException | None = None, notes: Sequence[str] = ()) -> Trace:
    """The Trace of one root call."""
    with no_collection():
        modules, parameters = take_inventory(named_modules(model))
        calls = tuple(_call(row) for row in rows)
    devices = {p.device for p in parameters} or {t.device for call in calls[:1] for t in call.inputs}
    return Trace(
        model=class_of(model).__name__,
        modules=modules,
        calls=calls,
        parameters=parameters,
        failure=None if error is None else _failure(error, rows, calls),
        device=", ".join(sorted(devices)) or "cpu",
        mode="meta" if devices == {"meta"} else "eager",
        torch=torch.__version__,
        notes=tuple(notes),
    )


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Many small lasting objects are made at once; the garbage collector would search them again and again, in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _call(row: "Row") -> ModuleCall:
    return twins.ModuleCall(
        fqn=row.name,
        kind=row.kind if row.module is None else class_of(row.module).__name__,
        index=row.index,
        parent=None if row.parent is None else row.parent.position,
        depth=row.depth,
        inputs=row.inputs,
        outputs=row.outputs,
        arguments=row.arguments,
        returned=row.returned,
        macs=_macs(row),
        seconds=max(row.seconds, 0.0) if row.completed or row.failed else 0.0,
        source=row.source,
        completed=row.completed,
        recomputed=row.recomputed,
        sequence=(row.sequence_start, row.sequence_end) if row.completed else None,
    )


def _macs(row: "Row") -> int | None:
    if row.pending is None:
        if row.watch is not None and row.watch.leaf and row.completed:
            return cost.of_module(row.watch.module, row.inputs, row.outputs)
        return row.macs
    counted = [macs for call, kind in row.pending if (macs := cost.settle(call, kind)) is not None]
    return sum(counted) if counted else None


def _failure(error: BaseException, rows: Sequence["Row"], calls: Sequence[ModuleCall]) -> Failure:
    """Where the exception came from: the deepest row on the path of unfinished calls."""
    index = _innermost(rows)
    module = next((call for call in _upwards(calls, index) if call.fqn is not None), None)
    return Failure(
        kind=type(error).__name__,
        message=str(error),
        module=(module.fqn or "") if module else "",
        operation=calls[index].kind if index is not None else "",
        source=_users_line(error),
        traceback=_text(error),
        call=index,
    )


def _innermost(rows: Sequence["Row"]) -> int | None:
    """The last row that did not complete and whose callers did not either."""
    index: int | None = None
    broken: set[int] = set()
    for row in rows:
        if not row.completed and (row.parent is None or row.parent.position in broken):
            broken.add(row.position)
            index = row.position
    return index


def _upwards(calls: Sequence[ModuleCall], index: int | None) -> list[ModuleCall]:
    path = []
    while index is not None:
        path.append(calls[index])
        index = calls[index].parent
    return path


def _users_line(error: BaseException) -> str:
    """The last line of the user's own in the traceback."""
    lines = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__) if sources.is_users(frame.filename)]
    return lines[-1] if lines else ""


def _text(error: BaseException) -> str:
    """The traceback without the recorder's own frames."""
    summary = traceback.TracebackException.from_exception(error)
    summary.stack = traceback.StackSummary.from_list([frame for frame in summary.stack if not sources.is_ours(frame.filename)])
    return "".join(summary.format())
