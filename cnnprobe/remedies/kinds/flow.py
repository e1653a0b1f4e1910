"""Remedies of losses, and of terms of a loss, that do not reach backward."""

import ast
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.sums import CUTS
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.call_lines import append_argument, drop_sum
from cnnprobe.remedies.kinds.calls import instead, pass_on
from cnnprobe.remedies.kinds.cuts import call_backward_on
from cnnprobe.remedies.loop_lines import drop_call
from cnnprobe.remedies.program import UserProgram, list_blocks, read_step
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.rewriting import Rewriting
from cnnprobe.remedies.subject import Subject
from cnnprobe.rulebook.detached_term import DetachedTerm, find_detached_terms
from cnnprobe.rulebook.total_per_sample import find_totals
from cnnprobe.rulebook.unused_loss import find_unused

MAKING = ("torch.tensor", "torch.as_tensor")
NUMBERS = ("torch.Tensor.item", "torch.Tensor.__float__")


@answers("detached-term")
def keep_gradient(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The term as it was computed, without the detach(), the item() or the torch.no_grad()."""
    for found in find_detached_terms(evidence):
        if found.flow.line(found.cut) == finding.source and not found.cure:
            cuts = [] if found.read is not None else list_cuts(found)
            lines = dict.fromkeys((cut.source, cut.kind) for cut in cuts)
            place = finding.source.rpartition("/")[2]
            yield Remedy(
                title=f"add the term at {place} with its gradient",
                change=lambda subject, found=found: _keep_gradient(subject, found),  # type: ignore[misc]
                edited=(lambda _, lines=lines: drop_call(*next(iter(lines))))  # type: ignore[misc]
                if len(lines) == 1 and all(operation(cut) == "detach" for cut in cuts)
                else None,
                shows="every term of the loss has a gradient",
                is_comparable=False,
                loss_ends="moved",
            )
            return


def _keep_gradient(subject: Subject, found: DetachedTerm) -> None:
    flow, cut = found.flow, found.flow.calls[found.cut]
    if found.read is not None:
        for kind in NUMBERS:
            subject.rewrite(kind, "", pass_on)
        for kind in MAKING:
            subject.rewrite(kind, cut.source, pass_on)
        _drop(subject, flow, found.read)
    elif operation(cut) in CUTS:
        _drop(subject, flow, found.cut)
    else:
        subject.rewrite(cut.kind, cut.source, _with_gradient)
        for kind in NUMBERS:  # a factor of the term that left torch on its line
            subject.rewrite(kind, cut.source, pass_on)
        for each in list_cuts(found):
            subject.rewrite(each.kind, each.source, pass_on)


def list_cuts(found: DetachedTerm) -> list[ModuleCall]:
    """The detach() and .data of what has a gradient, in front of a term or as it."""
    flow = found.flow
    rows = sorted(flow.before(found.cut) | {found.cut})
    return [
        flow.calls[i]
        for i in rows
        if operation(flow.calls[i]) in CUTS and any(t.requires_grad for t in flow.calls[i].inputs)
    ]


def _drop(subject: Subject, flow: Flow, index: int) -> None:
    """A row without its detach()."""
    call = flow.calls[index]
    if operation(call) in CUTS:
        subject.rewrite(call.kind, call.source, pass_on)


def _with_gradient(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with torch.enable_grad():
        return func(*args, **kwargs)


@answers("unused-loss")
def add_loss(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Backward on the sum of the loss that it is called on and of those that it leaves out."""
    for found in find_unused(evidence):
        call = found.call
        if call.source == finding.source and describe(call) == finding.subject:
            yield Remedy(
                title=f"call backward on the sum with what {describe(call)} computes",
                change=lambda subject, call=call: call_backward_on(subject, call, others=True),  # type: ignore[misc]
                edited=None if found.used else lambda program: _add_in_place(program, finding),
                shows="every loss that is computed reaches backward",
                is_comparable=False,
            )
            return


def _add_in_place(program: UserProgram, finding: Finding) -> list[TextChange]:
    """`loss = loss + ...` on the line that writes over the name of the loss."""
    file, function = read_step(program)
    number = int(finding.source.rpartition(":")[2])
    for block in list_blocks(function):
        first = next((i for i, s in enumerate(block) if s.lineno == number), None)
        names = [] if first is None else _list_targets(block[first])
        for later in block[first + 1 :] if first is not None and len(names) == 1 else ():
            if _list_targets(later) == names and isinstance(later, ast.Assign):
                read = {n.id for n in ast.walk(later.value) if isinstance(n, ast.Name)}
                if names[0] in read or not _binds_closer(later.value):
                    break
                start = file.span(later.value)[0]
                return [TextChange(file.path, start, start, f"{names[0]} + ")]
    raise UnknownPlaceError


def _binds_closer(value: ast.expr) -> bool:
    """Whether a sum with an expression needs no brackets around it."""
    operators = ast.Add | ast.Sub | ast.Mult | ast.Div
    is_product = isinstance(value, ast.BinOp) and isinstance(value.op, operators)
    return is_product or isinstance(value, ast.Call | ast.Name | ast.Attribute | ast.Subscript)


def _list_targets(statement: ast.stmt) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [each.id for each in targets if isinstance(each, ast.Name)]


@answers("total-per-sample")
def sum_each_sample(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The sum over the dims of a sample alone."""
    for found in find_totals(evidence):
        if found.call.source == finding.source and not found.dims:
            yield Remedy(
                title=f"drop {found.name} of the samples",
                change=instead(found.call, _keep_samples),
                edited=lambda _, call=found.call: drop_sum(call.source),  # type: ignore[misc]
                shows="the term has a value for each sample",
                is_comparable=False,
            )
            return
        if found.call.source == finding.source:
            dims = found.dims
            yield Remedy(
                title=(
                    f"sum over dim {dims[0] if len(dims) == 1 else dims} in {describe(found.call)}"
                ),
                change=lambda subject, found=found: subject.rewrite(  # type: ignore[misc]
                    found.call.kind, found.call.source, _sum_over(found.dims, found.given.shape)
                ),
                edited=(
                    lambda _, call=found.call: append_argument(call.source, call.kind, "dim=-1")  # type: ignore[misc]
                )
                if len(dims) == 1
                else None,
                shows="the term has a value for each sample",
                is_comparable=False,
            )
            return


def _keep_samples(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The values themselves; Python's sum gets them as one."""
    return (args[0],) if func.__name__ == "unbind" else args[0]


def _sum_over(dims: tuple[int, ...], shape: tuple[int, ...]) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and tuple(args[0].shape) == shape:
            return args[0].sum(dims)
        return func(*args, **kwargs)

    return run
