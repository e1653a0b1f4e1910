"""Remedies of a graph that is cut, or never walked: a loss that is wrapped again, a comparison, a
backward that is missing.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import spoken, variable
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.kinds.calls import pass_on
from cnnprobe.remedies.loop_lines import call_backward as write_backward
from cnnprobe.remedies.loop_lines import drop_call, keep_gradient_of_model, keep_loss
from cnnprobe.remedies.model_lines import drop_data, keep_gradient, set_keyword
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.rewriting import Rewriting
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.rulebook.loss_detached import find_other_loss
from cnnprobe.rulebook.no_grad_path import is_straight_through

# What hands a tensor on without its graph, or makes a new one of its number.
CUTTING = (
    "torch.tensor",
    "torch.as_tensor",
    "torch.Tensor.item",
    "torch.Tensor.detach",
    "torch.Tensor.data",
    "torch.Tensor.clone",
    "torch.Tensor.numpy",
)
_REACHES = "the gradient reaches them"
SIGNS = {"gt": 1.0, "ge": 1.0, "lt": -1.0, "le": -1.0}


@answers("loss-detached")
def keep_graph(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The loss as it came, on the line that wraps it; the model with gradients."""
    if finding.kind == "no-grad":
        model = variable(evidence, "model")
        yield Remedy(
            title=f"call {model} outside of torch.no_grad() and torch.inference_mode()",
            change=_record_forward,
            edited=keep_gradient_of_model,
            shows="the graph of the loss reaches the parameters",
        )
        return
    other = find_other_loss(evidence)
    if other is not None and finding.kind == "other-loss":
        place = other.source.rpartition("/")[2]
        yield Remedy(
            title=f"call backward on the result of {describe(other)} at {place}",
            change=lambda subject: call_backward_on(subject, other, others=False),
            shows="the graph of the loss reaches the parameters",
            is_comparable=False,
        )
        return
    if finding.source and finding.kind == "detach":
        yield from _remove_detach_at(finding)
    if finding.source and finding.kind == "wrapped-again":
        yield Remedy(
            title="call backward on the loss as it came, not on what is made of its number",
            change=lambda subject: _keep_graph(subject, _list_lines(finding, evidence)),
            written=lambda: keep_loss(finding.source),
            shows="the graph of the loss reaches the parameters",
        )


def _record_forward(subject: Subject) -> None:
    subject.model.__dict__["forward"] = _with_grad(subject.model.forward)


def _list_lines(finding: Finding, evidence: Evidence) -> set[str]:
    """The line of the loss, and those on the way to it that make a tensor anew."""
    flow = Flow(evidence.steps[0].trace)
    ends = [loss.call for loss in evidence.steps[0].losses if loss.call is not None]
    rows = {row for end in ends for row in flow.before(end)}
    return {finding.source} | {flow.line(i) for i in rows if flow.calls[i].kind in CUTTING}


def _keep_graph(subject: Subject, lines: set[str]) -> None:
    for kind in CUTTING:
        for line in lines:
            subject.rewrite(kind, line, _as_it_came)


def _as_it_came(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What came in; a list of losses as one tensor that keeps their graphs."""
    given = pass_on(func, args, kwargs)
    parts = given if isinstance(given, list | tuple) else ()
    return torch.stack(list(parts)) if parts and isinstance(parts[0], Tensor) else given


@answers("backward-missing")
def call_backward(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Backward of what the step returns, and the optimizer's step after it."""
    yield Remedy(
        title=f"call loss.backward() before {variable(evidence, 'optimizer')}.step()",
        change=_call_backward,
        edited=write_backward,
        shows="the weights change in each step",
    )


def _call_backward(subject: Subject) -> None:
    step = subject.request.train_step
    if step is None:
        raise CannotTryError("the standard step is complete")

    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        loss = step(*args, **kwargs)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise CannotTryError("the step returns no loss with a graph")
        torch.autograd.backward(loss)
        for optimizer in subject.optimizers:
            optimizer.step()
        return loss

    subject.rewrite("torch.Tensor.item", "", pass_on)  # so that `return loss.item()` is a loss
    subject.request = replace(subject.request, train_step=run)


def call_backward_on(subject: Subject, call: ModuleCall, *, others: bool) -> None:
    """Backward on the results of a call, added to the loss that it was called on with `others`."""
    made: list[Tensor] = []

    def keep(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.requires_grad:
            made.append(result)
        return result

    subject.rewrite(call.kind, call.source, keep)
    subject.rewrite("torch.Tensor.backward", "", _backward_on(made, others=others))


def _backward_on(made: list[Tensor], *, others: bool) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kept, made[:] = [each for each in made if each is not args[0]], []
        if not kept:
            return func(*args, **kwargs)
        loss = torch.stack([each.reshape(()) for each in kept]).sum()
        return func(loss + args[0] if others else loss, *args[1:], **kwargs)

    return run


def soften_comparisons(evidence: Evidence) -> Iterator[Remedy]:
    """The gradient let through a comparison (Bengio, Léonard, Courville 2013, arXiv:1308.3432)."""
    flow = Flow(evidence.trace)
    for i in flow.primitives(SIGNS):
        call = flow.calls[i]
        if flow.owner(i) is not None and call.inputs and call.inputs[0].requires_grad:
            yield Remedy(
                title=f"hard + (x - x.detach()) for hard = {describe(call)}(x, ...)",
                change=_soften(call.kind, call.source, SIGNS[operation(call)]),
                shows="the gradient goes through the comparison",
                is_comparable=False,
                loss_ends="moved",
            )


def _soften(kind: str, source: str, sign: float) -> Callable[[Subject], None]:
    return lambda subject: subject.rewrite(kind, source, _pass_beside(sign))


def _pass_beside(sign: float) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args[0]
        return func(*args, **kwargs).to(given.dtype) + sign * (given - given.detach())

    return run


@answers("no-grad-path", "no-grad-params")
def let_gradient_pass(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Without detach and .data, but not that of a straight-through estimator; through comparisons;
    with gradients where they were off.
    """
    if finding.kind == "no-derivative":
        yield from soften_comparisons(evidence)
        return
    if finding.kind in ("unread-output", "left-aside"):
        return  # what it was for is not known
    if finding.kind == "reentrant-checkpoint":
        yield _run_otherwise(finding, evidence)
        return
    if finding.kind == "straight-through":
        return  # the loss that is missing is not known
    flow = Flow(evidence.trace)
    if not any(is_straight_through(flow, i) for i in flow.primitives({"detach"})):
        yield from _remove_detach(finding, evidence)
    yield from soften_comparisons(evidence)
    if finding.rule == "no-grad-params":
        yield Remedy(
            title="remove the .item() between them and the loss",
            change=lambda subject: subject.rewrite("torch.Tensor.item", "", pass_on),
            shows=_REACHES,
            is_comparable=False,
            loss_ends="moved",
        )
    yield Remedy(
        title=f"remove the torch.no_grad() in {spoken(evidence, finding.module)}",
        change=lambda subject: _without_no_grad(subject, evidence),
        written=lambda: keep_gradient(finding.source),
        shows=_REACHES,
        loss_ends="moved",
    )


def _run_otherwise(finding: Finding, evidence: Evidence) -> Remedy:
    """A checkpoint that runs without a backward of its own."""
    inputs = variable(evidence, "inputs")
    return Remedy(
        title=f"use_reentrant=False in checkpoint(...), or {inputs}.requires_grad_()",
        change=_give_gradient,
        written=lambda: set_keyword(
            finding.source.rpartition(":")[0], "checkpoint", "use_reentrant", "False"
        ),
        shows=_REACHES,
        loss_ends="moved",
    )


def _remove_detach(finding: Finding, evidence: Evidence) -> Iterator[Remedy]:
    if finding.source and finding.kind == "detach":
        yield from _remove_detach_at(finding)
    yield Remedy(
        title=f"remove the detach() or .data in {spoken(evidence, finding.module)}",
        change=_without_detach,
        written=lambda: drop_data(finding.source),
        shows=_REACHES,
        loss_ends="moved",
    )


def _remove_detach_at(finding: Finding) -> Iterator[Remedy]:
    yield Remedy(
        title=f"remove the detach() at {finding.source.rpartition('/')[2]}",
        change=lambda subject: _without_detach(subject, finding.source),
        written=lambda: drop_call(finding.source, "torch.Tensor.detach"),
        shows=_REACHES,
        loss_ends="moved",
    )


def _without_detach(subject: Subject, source: str = "") -> None:
    for kind in ("torch.Tensor.detach", "torch.Tensor.data", "torch.detach"):
        subject.rewrite(kind, source, pass_on)


def _give_gradient(subject: Subject) -> None:
    """Inputs that require grad, as a reentrant checkpoint needs them."""

    def change(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().clone().requires_grad_() if is_float else value

    inputs = torch.utils._pytree.tree_map(change, subject.request.inputs)
    subject.request = replace(subject.request, inputs=inputs)


def _without_no_grad(subject: Subject, evidence: Evidence) -> None:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.enable_grad():
            return func(*args, **kwargs)

    flow = Flow(evidence.trace)
    for i in flow.primitives():
        if flow.calls[i].fqn is None and flow.owner(i) is not None:
            subject.rewrite(flow.calls[i].kind, flow.calls[i].source, run)
    for module in subject.model.modules():
        if not module._modules:
            module.__dict__["forward"] = _with_grad(module.forward)


def _with_grad(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.enable_grad():
            return forward(*args, **kwargs)

    return run
