"""Remedies of losses, masks and draws that run, and do not do what is meant."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import get_given, read_called
from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import variable
from cnnprobe.remedies.call_lines import append_argument, append_last
from cnnprobe.remedies.changes import find_module
from cnnprobe.remedies.kinds.calls import instead, rows_at
from cnnprobe.remedies.model_lines import raise_rest, rename_call, set_keyword
from cnnprobe.remedies.program import UserProgram, list_files
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.rulebook.inverted_class_weights import BINARY, OF_CLASSES
from cnnprobe.rulebook.inverted_mask import NAME
from cnnprobe.rulebook.unbounded_task_weight import find_product


@answers("padding-in-loss")
def ignore_padding(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """ignore_index=0 in the loss."""
    flow = Flow(evidence.trace)
    for i in flow.primitives({"cross_entropy", "nll_loss"}):
        call = flow.calls[i]
        if call.source == finding.source:
            yield Remedy(
                title=f"ignore_index=0 in {describe(call)}",
                change=instead(call, _ignore_zero),
                edited=lambda _, call=call: append_argument(  # type: ignore[misc]
                    call.source, call.kind, "ignore_index=0"
                ),
                shows="only words count in the loss",
                is_comparable=False,
            )
            return


def _ignore_zero(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs | {"ignore_index": 0})


@answers("inverted-class-weights")
def invert_weights(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The inverse of each weight."""
    if finding.kind in ("measured", "order"):
        return  # what multiplies the loss, or in which order, is the user's own code
    yield Remedy(
        title=BINARY if finding.kind == "binary" else OF_CLASSES,
        change=_invert_weights,
        shows="the rare classes count more",
        is_comparable=False,
    )


def _invert_weights(subject: Subject) -> None:
    losses = [subject.request.loss_fn, *(m for _, m in subject.around.models.values())]
    found = {
        id(m): m
        for m in losses
        if isinstance(m, nn.Module) and isinstance(getattr(m, "weight", None), Tensor)
    }
    weighted = [m for m in found.values() if isinstance(m, nn.CrossEntropyLoss | nn.NLLLoss)]
    known = {id(m): m for m in losses if isinstance(m, nn.BCEWithLogitsLoss)}
    binary = [m for m in known.values() if isinstance(m.pos_weight, Tensor)]
    for loss in binary:
        _invert_positive(subject, loss)
    if not weighted and not binary:
        raise CannotTryError("the loss with the weights is not known")
    for module in weighted:
        old: Any = module.weight
        module.weight = old.mean() ** 2 / old.clamp(min=1e-8)
        subject.undo(lambda module=module, old=old: setattr(module, "weight", old))  # type: ignore[misc]


def _invert_positive(subject: Subject, loss: Any) -> None:
    old: Any = loss.pos_weight
    loss.pos_weight = 1 / old.clamp(min=1e-8)
    subject.undo(lambda: setattr(loss, "pos_weight", old))


@answers("sample-without-gradient")
def draw_with_gradient(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The mean plus the deviation times noise, with gradients."""
    for _, call in rows_at(finding, evidence)[:1] if finding.kind != "nearest" else ():
        yield Remedy(
            title="rsample() in place of sample()",
            change=instead(call, _reparametrise),
            written=lambda call=call: rename_call(call.source, "sample", "rsample"),  # type: ignore[misc]
            shows="the gradient goes through the draw",
            is_comparable=False,
        )


def _reparametrise(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mean, deviation = args[0], args[1] if len(args) > 1 else kwargs.get("std", 1.0)
    with torch.enable_grad():
        return mean + deviation * torch.randn_like(mean)


@answers("inverted-focal-weight")
def turn_weight(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """(1 - p) in the place of p."""
    for _, call in rows_at(finding, evidence)[:1]:
        yield Remedy(
            title="(1 - p) ** gamma in place of p ** gamma",
            change=instead(call, _of_the_rest),
            written=lambda call=call: raise_rest(call.source),  # type: ignore[misc]
            shows="the samples that are wrong count most",
            is_comparable=False,
        )


def _of_the_rest(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(1 - args[0], *args[1:], **kwargs)


@answers("unbounded-task-weight")
def add_parameter(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The parameter itself added to what it weighs."""
    flow = Flow(evidence.steps[0].trace)
    for name, parameter in model.named_parameters():
        product = find_product(flow, name, tuple(parameter.shape))
        if product is not None and flow.line(product) == finding.source:
            yield Remedy(
                title="exp(-s) * loss + s",
                change=instead(flow.calls[product], _plus(parameter)),
                shows="the loss has a least value in s",
                is_comparable=False,
            )
            return


def _plus(parameter: Tensor) -> Callable[..., Any]:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs) + parameter

    return run


@answers("rounded-updates")
def hold_in_float32(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Weights and inputs in float32."""
    yield Remedy(
        title=f"{variable(evidence, 'model')}.float(), and the forward under torch.autocast",
        change=_to_float32,
        shows="each weight gets its whole step",
        is_comparable=False,
    )


def _to_float32(subject: Subject) -> None:
    def change(value: Any) -> Any:
        is_half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        return value.float() if is_half else value

    subject.model.float()
    subject.request = replace(
        subject.request,
        inputs=tree_map(change, subject.request.inputs),
        targets=tree_map(change, subject.request.targets),
    )


@answers("inverted-mask")
def turn_mask(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The mask the other way round."""
    attention = find_module(model, finding.module)
    if attention is not None:
        yield Remedy(
            title=f"{NAME}=(ids == padding)",
            change=lambda subject: _turn_mask(subject.module(finding.module or "")),
            written=lambda: set_keyword(_find_file(evidence, finding.module), "", NAME, "~({x})"),
            shows="the words are read",
            is_comparable=False,
        )


def _find_file(evidence: Evidence, fqn: str | None) -> str:
    """The file that calls a module."""
    rows = [call for call in evidence.trace.calls if call.fqn == fqn]
    return rows[0].source.rpartition(":")[0] if rows else ""


def _turn_mask(module: nn.Module) -> None:
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get(NAME)
        return forward(*args, **kwargs | ({NAME: ~mask} if mask is not None else {}))

    module.__dict__["forward"] = run


@answers("constant-penalty")
def create_graph(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """create_graph=True in torch.autograd.grad."""
    yield Remedy(
        title="torch.autograd.grad(..., create_graph=True)",
        change=lambda subject: subject.rewrite("torch.autograd.grad", "", _with_graph),
        edited=_write_with_graph,
        shows="every term of the loss has a gradient",
        is_comparable=False,
    )


def _write_with_graph(program: UserProgram) -> list[TextChange]:
    calls = [
        (file, node)
        for file in list_files(program)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and read_called(node) == "grad"
    ]
    if len(calls) != 1:
        raise UnknownPlaceError
    file, call = calls[0]
    given = get_given(call, [], "create_graph")
    return [
        append_last(file, call, "create_graph=True")
        if given is None
        else file.replace(given, "True")
    ]


def _with_graph(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs | {"create_graph": True})
