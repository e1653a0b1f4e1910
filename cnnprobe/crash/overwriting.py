"""A saved tensor that was overwritten before its backward: which call wrote to it, and the same without writing in place."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.edits.edit import Edit, write_diff
from cnnprobe.crash.edits.layers import Reconfigure
from cnnprobe.crash.facts.saved import Saved, find_maker
from cnnprobe.crash.facts.words import operation, quote, read_line, shorten
from cnnprobe.crash.model_copy import copy_model
from cnnprobe.crash.training import Verdict
from cnnprobe.explanation import Repair
from cnnprobe.recorder.functions import is_writing
from cnnprobe.trace import ModuleCall

_VIEWS = frozenset(
    {
        "__getitem__",
        "view",
        "narrow",
        "select",
        "unsqueeze",
        "t",
        "transpose",
        "squeeze",
        "chunk",
        "split",
    }
)


def explain_overwritten(crash: Crash, saved: Saved) -> Verdict:
    """Which call wrote to a tensor that another had saved, and how it goes without."""
    case = crash if crash.trace.calls else None
    maker = find_maker(case, saved.node)
    parameter = _changed_parameter(crash, saved)
    what = saved.node.name().rstrip("0123456789").removesuffix("Backward") or saved.node.name()
    keeper = case.describe_call(maker[1]) if case is not None and maker is not None else what
    if parameter is not None:
        owner = parameter.rpartition(".")[0]
        return Verdict(
            diagnosis="inplace-autograd",
            module=owner,
            message=f"the parameter '{parameter}' was changed in place between the forward and the backward that needs it",
            arithmetic=f"{keeper} saved it for its backward ({saved.node.name()})",
            repairs=(
                Repair(
                    title="call optimizer.step() after the last backward(), or run the forward again after the step",
                    module=owner,
                ),
            ),
        )
    writer = _writer(case, maker) if case is not None else None
    if case is None or writer is None:
        return Verdict(
            diagnosis="inplace-autograd",
            module=case.find_module_above(maker[0])
            if case is not None and maker is not None
            else None,
            message=f"a tensor that {keeper} saved for its backward was overwritten in place afterwards",
            arithmetic=f"{saved.node.name()}{saved.name} has another version than when it was saved",
            repairs=(
                Repair(
                    title="use the out-of-place form of the operation that writes to it, or clone() it first"
                ),
            ),
        )
    at, call = writer
    owner = call.fqn if call.fqn is not None else case.find_module_above(call.parent)
    return Verdict(
        diagnosis="inplace-autograd",
        module=owner,
        message=f"{case.describe_call(call)} overwrites in place a tensor that {keeper} saved for its backward",
        arithmetic=f"saved by {saved.node.name()}, overwritten by call {at} ({call.kind})",
        repairs=tuple(_out_of_place(crash, case, call)),
        raised_in=f"the backward of {keeper}",
    )


def _changed_parameter(crash: Crash, saved: Saved) -> str | None:
    """The parameter that a node keeps, where it is the parameter itself that was written to."""
    if not saved.name.endswith(("weight", "mat2", "mat1", "other", "self")):
        return None
    names = {
        id(p): f"{fqn}.{name}" if fqn else name
        for fqn, m in crash.modules.items()
        for name, p in m._parameters.items()
        if p is not None
    }
    for child, _ in saved.node.next_functions:
        for node in (child, *(below for below, _ in getattr(child, "next_functions", ()))):
            variable = getattr(node, "variable", None)
            if variable is None or (
                saved.name.endswith(("mat1", "mat2")) and variable.dim() < 2
            ):  # a bias, which is added and not kept
                continue
            if id(variable) in names and variable._version > 0 and _is_kept(saved, variable):
                return names[id(variable)]
    return None


def _is_kept(saved: Saved, variable: Tensor) -> bool:
    """Whether the saved tensor can be the parameter, by the sizes that the node remembers."""
    others = [n for n in dir(saved.node) if n.startswith("_saved_") and n != saved.name]
    for name in others:
        with contextlib.suppress(RuntimeError):
            value = getattr(saved.node, name)
            if isinstance(value, Tensor) and value.data_ptr() == variable.data_ptr():
                return False
    return saved.name.endswith(("weight", "mat2")) or variable._version > 1


def _writer(case: Crash, maker: tuple[int, ModuleCall] | None) -> tuple[int, ModuleCall] | None:
    """The first call after the saving one that writes to what it saved: its output, or one of its inputs."""
    start = maker[0] if maker is not None else -1
    kept: set[Any] = set()
    if maker is not None:
        kept = {start, *(t.source for t in maker[1].inputs)} | {t.source for t in maker[1].outputs}
    writers = [(i, c) for i, c in enumerate(case.trace.calls) if i > start and _writes(case, c)]
    views = set(kept)
    for i, call in enumerate(case.trace.calls):  # a slice of what was saved is written to as well
        if i > start and operation(call) in _VIEWS and any(t.source in views for t in call.inputs):
            views.add(i)
    exact = [
        pair
        for pair in writers
        if pair[1].inputs
        and pair[1].inputs[0].source in views
        and pair[1].inputs[0].source is not None
    ]
    inputs = [
        pair
        for pair in writers
        if pair[1].inputs and pair[1].inputs[0].source is None and None in kept
    ]
    return next(iter(exact or inputs or writers), None)


def _writes(case: Crash, call: ModuleCall) -> bool:
    if call.fqn is None:
        return (
            is_writing(operation(call), dict(call.arguments))
            or call.arguments.get("inplace") is True
        )
    return bool(getattr(case.modules.get(call.fqn), "inplace", False))


def _out_of_place(crash: Crash, case: Crash, call: ModuleCall) -> Iterator[Repair]:
    for edit in _edits(case, call):
        tried = backward_passes(crash, case, edit)
        if tried is not False:
            said = "tried: forward and backward pass on a copy of the model" if tried else ""
            worked, patch = bool(tried), write_diff(case, [edit])
            yield Repair(
                title=edit.title,
                code=edit.code,
                module=edit.module,
                works=worked,
                plausible=worked,
                tried=said,
                patch=patch,
            )
    if operation(call) in ("__setitem__", "copy_", "zero_", "fill_"):
        yield Repair(
            title=f"clone the tensor before writing to it at {shorten(call.source)}: x = x.clone()",
            code="x = x.clone()",
        )


def _edits(case: Crash, call: ModuleCall) -> Iterator[Edit]:
    if call.fqn is not None:
        yield Reconfigure(
            title=f"set inplace=False in {quote(call.fqn)}",
            code="inplace=False",
            module=call.fqn,
            changes={"inplace": False},
        )
        return
    name = operation(call)
    owner = case.find_module_above(call.parent)
    symbol = {"add_": "+", "sub_": "-", "mul_": "*", "div_": "/"}.get(
        name.replace("__itruediv__", "div_").replace("__i", "").replace("__", "_")
    )
    if symbol is not None and f"{symbol}=" in read_line(call.source):
        plain = {"+": "__add__", "-": "__sub__", "*": "__mul__", "/": "__truediv__"}[symbol]
        yield Rewrite(
            title=f"write x = x {symbol} y instead of x {symbol}= y at {shorten(call.source)}",
            code=f"x = x {symbol} y",
            module=owner,
            kind=call.kind,
            source=call.source,
            function=lambda _func, args, kwargs: getattr(args[0], plain)(*args[1:], **kwargs),
            respell="{x} = {x} + {rest}",
        )
    elif name.endswith("_") and not name.endswith("__"):
        yield Rewrite(
            title=f"use {name.rstrip('_')} instead of {name} at {shorten(call.source)}: x = x.{name.rstrip('_')}(...)",
            code=f"x = x.{name.rstrip('_')}(...)",
            module=owner,
            kind=call.kind,
            source=call.source,
            function=lambda _func, args, kwargs: getattr(args[0].clone(), name)(
                *args[1:], **kwargs
            ),
        )
    elif call.arguments.get("inplace") is True:
        yield Rewrite(
            title=f"use inplace=False at {shorten(call.source)}",
            code="inplace=False",
            module=owner,
            kind=call.kind,
            source=call.source,
            function=lambda func, args, kwargs: func(args[0].clone(), *args[1:], **kwargs),
        )


def backward_passes(crash: Crash, case: Crash, edit: Edit) -> bool | None:
    """Whether forward and backward pass on a copy with this edit; None where that could not be tried."""
    if not crash.args and not crash.kwargs:
        return None
    shadow = copy_model(case.modules[""], crash.args, crash.kwargs, meta=False, grad=True)
    if shadow is None:
        return None
    try:
        shadow.apply([edit])
        return shadow.backward()
    except Exception:  # the edit does not fit
        return None
