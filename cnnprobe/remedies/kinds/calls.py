"""Remedies of single calls: a function or layer whose result is another, on the line where it
stands.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.axes import find_order
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.call_lines import (
    assign,
    follow_mode,
    guard,
    guard_divisor,
    set_argument,
)
from cnnprobe.remedies.model_lines import copy_inputs, in_training, permute_first, remove_line
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.rewriting import Rewriting
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.remedies.writing import Written
from cnnprobe.rulebook.reshape_scramble import list_scrambled, split_of_heads

SMALL = 1e-8  # keeps log, sqrt and divisions away from 0


def rows_at(finding: Finding, evidence: Evidence) -> list[tuple[Flow, ModuleCall]]:
    """The rows at the place that a finding names, in the first step and in the evaluation."""
    found = []
    for trace in (evidence.trace, evidence.evaluation):
        flow = Flow(trace) if trace is not None else None
        for i in flow.primitives() if flow is not None else ():
            assert flow is not None  # noqa: S101
            if flow.owner(i) == finding.module and flow.line(i) == finding.source:
                found.append((flow, flow.calls[i]))
    # Several calls may stand on the line: the finding speaks of one.
    return [row for row in found if describe(row[1]) == finding.subject] or found


def instead(call: ModuleCall, how: Rewriting) -> Callable[[Subject], None]:
    """Something else in the place of a row's call: a function on its line, or a layer."""

    def change(subject: Subject) -> None:
        if call.fqn is None:
            subject.rewrite(call.kind, call.source, how)
            return
        subject.set_module(call.fqn, _Stand(subject.module(call.fqn), how))

    return change


class _Stand(nn.Module):
    """Stands in the place of a layer."""

    def __init__(self, layer: nn.Module, how: Rewriting) -> None:
        super().__init__()
        self.layer, self.how = layer, how

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What is given in the place of the layer's result."""
        return self.how(self.layer, args, kwargs)


def all_instead(calls: list[ModuleCall], how: Rewriting) -> Callable[[Subject], None]:
    """The same in the place of each of several calls."""

    def change(subject: Subject) -> None:
        for call in calls:
            instead(call, how)(subject)

    return change


def pass_on(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What came in, as if the call were not there."""
    return next(iter((*args, *kwargs.values())))


def find_call(
    finding: Finding, evidence: Evidence, *operations: str
) -> tuple[Flow, ModuleCall] | None:
    """The row that a finding speaks of, of some operations if any are given."""
    rows = rows_at(finding, evidence)
    return next((r for r in rows if not operations or operation(r[1]) in operations), None)


def write_elsewhere(
    finding: Finding, evidence: Evidence, model: Any, shown: str
) -> Iterator[Remedy]:
    """A copy in the place of what a call writes to; of the inputs alone, where they are written
    to: what is written is read there.
    """
    for _, call in rows_at(finding, evidence)[:1] if finding.rule != "input-mutated" else ():
        if call.fqn is None:
            yield Remedy(
                title=f"x.clone() before {describe(call)}",
                change=instead(call, _on_a_copy),
                written=lambda call=call: guard(call.source, call.kind, "{x}.clone()"),  # type: ignore[misc]
                shows=shown,
            )
    yield Remedy(
        title="x = x.clone() at the beginning of the forward",
        change=_copy_inputs,
        written=lambda: copy_inputs(model),
        shows=shown,
    )


def _on_a_copy(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    first, *others = args
    return func(first.clone(), *others, **kwargs)


def _copy_inputs(subject: Subject) -> None:
    def copy(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        clones = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
        named = {k: v.clone() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
        return clones, named

    subject.model.register_forward_pre_hook(copy, with_kwargs=True)


@answers("functional-dropout")
def dropout_by_mode(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """training=self.training; .train(self.training) of a layer that forward makes."""
    found = find_call(finding, evidence)
    if found is not None and finding.severity is not Severity.INFO:  # there it is on purpose
        name, is_anew = describe(found[1]), finding.kind == "made-anew"
        yield Remedy(
            title="nn.Dropout(...).train(self.training)(...), or one that __init__ makes"
            if is_anew
            else f"{name}(..., training=self.training)",
            change=lambda subject: subject.rewrite(
                found[1].kind, found[1].source, _by_mode(subject.module(finding.module or ""))
            ),
            written=lambda: follow_mode(found[1].source) if is_anew else _set_training(found[1]),
            shows="it drops nothing in eval mode",
        )


def _set_training(call: ModuleCall) -> list[TextChange]:
    return set_argument(call.source, call.kind, "training", "self.training", behind=("p",))


def _by_mode(module: nn.Module) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "dropout_p" in kwargs:
            return func(*args, **kwargs | ({} if module.training else {"dropout_p": 0.0}))
        kept = {k: v for k, v in kwargs.items() if k != "training"}
        return func(*args[:2], training=module.training, **kept)

    return run


@answers("eval-nondeterminism")
def random_in_training(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Nothing random in eval mode."""
    if finding.kind == "meant":
        return
    flow = Flow(evidence.evaluation or evidence.trace)
    drawing = [c for c in flow.calls if c.fqn is None and "rand" in c.kind.rpartition(".")[2]]
    for call in drawing[:2]:
        yield Remedy(
            title=f"{describe(call)} only `if self.training:`",
            change=lambda subject, call=call: subject.rewrite(  # type: ignore[misc]
                call.kind, call.source, _in_training(subject.model)
            ),
            written=lambda call=call: in_training(call.source, call.kind),  # type: ignore[misc]
            shows="two passes in eval mode give the same",
        )


def _in_training(model: nn.Module) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        made = func(*args, **kwargs)
        return made if model.training else torch.zeros_like(made)

    return run


@answers("dead-output")
def assign_result(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The result kept, by writing it to what went in; a copy or a move left out."""
    found = find_call(finding, evidence)
    if found is None or finding.kind in ("variable", "assigned"):
        return  # which of its readers was meant is not known
    _, call = found
    at_line = (d for d in evidence.dropped if evidence.trace.calls[d.call].source == call.source)
    known = next((f"{d.variable} = {d.statement}" for d in at_line if d.variable), "x = ...")
    yield Remedy(
        title=f"assign the result of {describe(call)}: {known}",
        change=instead(call, _write_back),
        written=lambda: assign(call.source, call.kind),
        shows="the result is used",
        is_comparable=False,
        loss_ends="moved",
    )
    if finding.severity is not Severity.INFO:
        return  # it was written for something
    yield Remedy(
        title=f"remove {describe(call)}",
        change=instead(call, pass_on),
        written=lambda: remove_line(call.source, call.kind),
        shows="the outputs are the same without it",
        tidies=True,
    )


def _write_back(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    place = args[0]
    # autograd may keep what it is given, and must not find it overwritten
    given = place.clone() if isinstance(place, Tensor) else place
    result = func(given, *args[1:], **kwargs)
    if not isinstance(result, Tensor) or result.shape != place.shape:
        raise CannotTryError("its result has another shape than what goes in")
    return place.copy_(result)


@answers("reshape-scramble")
def transpose_first(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The axes moved before the view."""
    found = find_call(finding, evidence)
    if found is None or not found[1].outputs:
        return
    before, after = found[1].inputs[0].shape, found[1].outputs[0].shape
    heads, order = split_of_heads(before, after), find_order(before, after)
    if heads is None and order is None:
        return
    if heads is not None:
        written = f"x.view(N, T, {heads[0]}, {heads[1]}).transpose(1, 2)"
    else:
        written = f"x.permute{order}.reshape({', '.join(map(str, after))})"
    yield Remedy(
        title=f"{written} in place of {describe(found[1])}",
        change=lambda subject: _move_axes(subject, finding, evidence),
        written=lambda: _write_axes(finding, evidence),
        shows="the values move with their axes",
        is_comparable=False,
        is_everywhere=True,
    )


def _move_axes(subject: Subject, finding: Finding, evidence: Evidence) -> None:
    """Every view of the place that exchanges axes, each as its sizes ask for."""
    for call in _list_moved(finding, evidence):
        before, after = call.inputs[0].shape, call.outputs[0].shape
        heads, order = split_of_heads(before, after), find_order(before, after)
        if heads is not None:
            instead(call, _split_last(before, *heads))(subject)
        elif order is not None:
            instead(call, _permute_first(order, before, after))(subject)


def _list_moved(finding: Finding, evidence: Evidence) -> list[ModuleCall]:
    flow = Flow(evidence.trace)
    rows = [i for i in list_scrambled(evidence, flow) if flow.owner(i) == finding.module]
    return [flow.calls[i] for i in rows] or [call for _, call in rows_at(finding, evidence)[:1]]


def _write_axes(finding: Finding, evidence: Evidence) -> list[TextChange]:
    changes: list[TextChange] = []
    for call in _list_moved(finding, evidence):
        before, after = call.inputs[0].shape, call.outputs[0].shape
        order = find_order(before, after)
        if order is None or split_of_heads(before, after) is not None:
            raise UnknownPlaceError
        changes += permute_first(call.source, call.kind, order)
    return changes


def _split_last(before: tuple[int, ...], heads: int, size: int) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if tuple(args[0].shape) != before:  # another view of the same line
            return func(*args, **kwargs)
        return args[0].reshape(*before[:2], heads, size).transpose(1, 2)

    return run


def _permute_first(
    order: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if tuple(args[0].shape) != before:  # another reshape of the same line
            return func(*args, **kwargs)
        return args[0].permute(order).reshape(after)

    return run


@answers("nan-forward")
def keep_in_range(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The argument of log, sqrt and divisions kept where they have a value."""
    yield from _keep_finite(finding, evidence, "the values are finite")


@answers("nan-backward")
def keep_off_zero(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The argument of sqrt, norm and divisions kept off 0."""
    yield from _keep_finite(finding, evidence, "the gradients are finite")


def _keep_finite(finding: Finding, evidence: Evidence, shown: str) -> Iterator[Remedy]:
    for kind, (how, code) in _FINITE.items():
        found = find_call(finding, evidence, kind)
        if found is not None:
            yield Remedy(
                title=f"{code} in place of {describe(found[1])}(...)",
                change=instead(found[1], how),
                written=_write_guard(kind, found[1]),
                shows=shown,
                is_comparable=False,
            )
            return


def _write_guard(kind: str, call: ModuleCall) -> Written | None:
    guards = {
        "log": "{x}.clamp(min=1e-8)",
        "sqrt": "{x}.clamp(min=0) + 1e-8",
        "rsqrt": "{x}.clamp(min=0) + 1e-8",
        "exp": "{x}.clamp(max=80)",
    }
    if kind == "div":
        return lambda: guard_divisor(call.source, "({x} + 1e-8)")
    return (lambda: guard(call.source, call.kind, guards[kind])) if kind in guards else None


def _first(how: Callable[[Tensor], Tensor]) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(how(args[0]), *args[1:], **kwargs)

    return run


def _second(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) < 2 or not isinstance(args[1], Tensor):
        raise CannotTryError("the divisor is not a tensor")
    return func(args[0], args[1] + SMALL, *args[2:], **kwargs)


_FINITE: dict[str, tuple[Rewriting, str]] = {
    "log": (_first(lambda x: x.clamp(min=SMALL)), "torch.log(x.clamp(min=1e-8))"),
    "sqrt": (_first(lambda x: x.clamp(min=0) + SMALL), "torch.sqrt(x.clamp(min=0) + 1e-8)"),
    "rsqrt": (_first(lambda x: x.clamp(min=0) + SMALL), "torch.rsqrt(x.clamp(min=0) + 1e-8)"),
    "exp": (_first(lambda x: x.clamp(max=80)), "torch.exp(x.clamp(max=80))"),
    "pow": (_first(lambda x: x.clamp(min=SMALL)), "x.clamp(min=1e-8) ** p"),
    "norm": (_first(lambda x: x + SMALL), "(x + 1e-8).norm()"),
    "div": (_second, "x / (y + 1e-8)"),
}
