"""Remedies of losses that are made of scores, or compare nothing: probabilities before them, their
sign, the labels and targets that were meant.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import LOSSES, Evidence, Flow, argument, describe, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls, stat, variable
from cnnprobe.diagnosis.evidence.scores import Score, ScoreKind, find_scores, read_number
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.call_lines import change_output, guard_divisor, negate_loss
from cnnprobe.remedies.kinds.calls import instead, pass_on, rows_at
from cnnprobe.remedies.kinds.losses import negate
from cnnprobe.remedies.kinds.values import change_targets
from cnnprobe.remedies.loop_lines import change_targets_first
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.rewriting import Rewriting
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.remedies.writing import Written

CLASSES = 1  # the dim that torch's losses expect the classes in


@answers("loss-out-of-range")
def bound_score(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Probabilities in the place of raw outputs; the other sign of a score; log_softmax."""
    flow = Flow(evidence.trace)
    for score in find_scores(evidence, flow):
        if flow.line(score.index) != finding.source:
            continue
        if score.kind is ScoreKind.OVERLAP and score.sign > 0:
            yield _turn(flow, score, "the optimizer makes the overlap larger")
        elif score.kind is ScoreKind.PICKED:
            yield from _take_logarithm(flow, score)
        elif score.kind is ScoreKind.FOCAL:
            yield from _bound_weight(flow, score)
        else:
            yield from _give_probabilities(evidence, score)


def _turn(flow: Flow, score: Score, shown: str) -> Remedy:
    call = flow.calls[score.loss.call or 0]
    return Remedy(
        title="turn the sign of the loss: 1 - score",
        change=lambda subject: subject.rewrite(call.kind, call.source, negate),
        edited=negate_loss,
        shows=shown,
        is_comparable=False,
    )


def _take_logarithm(flow: Flow, score: Score) -> Iterator[Remedy]:
    call, origin = flow.calls[score.index], flow.origin(score.prediction)
    is_softmax = origin is not None and operation(flow.calls[origin]) == "softmax"
    how = torch.log if is_softmax else _log_softmax
    yield Remedy(
        title="minus the logarithm of the probability: F.cross_entropy(output, targets)",
        change=lambda subject: _likelihood(subject, flow, score, call, how),
        shows="the loss is a cross entropy, which is never below 0",
        is_comparable=False,
    )


def _likelihood(
    subject: Subject, flow: Flow, score: Score, call: ModuleCall, how: Callable[[Tensor], Tensor]
) -> None:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [how(a) if isinstance(a, Tensor) and a.requires_grad else a for a in args]
        return func(*given, **kwargs)

    subject.rewrite(call.kind, call.source, run)
    if score.sign > 0:
        made = flow.calls[score.loss.call or 0]
        subject.rewrite(made.kind, made.source, negate)


def _log_softmax(values: Tensor) -> Tensor:
    return torch.log_softmax(values, dim=CLASSES)


def _bound_weight(flow: Flow, score: Score) -> Iterator[Remedy]:
    rest = flow.producer(score.prediction)
    if rest is not None:
        yield Remedy(
            title="p = torch.sigmoid(output) in the weight (1 - p) ** gamma",
            change=instead(flow.calls[rest], _of_sigmoid),
            shows="the weight is in [0, 1]",
            is_comparable=False,
        )


def _of_sigmoid(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = [torch.sigmoid(a) if isinstance(a, Tensor) and a.requires_grad else a for a in args]
    return func(*given, **kwargs)


def _give_probabilities(evidence: Evidence, score: Score) -> Iterator[Remedy]:
    shown = "the loss gets values in [0, 1]"
    found = [t for t in evidence.targets if stat(t, "max") > 1 and t.dtype.startswith("float")]
    if found:
        targets, most = variable(evidence, "targets"), stat(found[0], "max")
        yield Remedy(
            title=f"divide {targets} by {most:.3g}",
            change=change_targets(lambda t: t / t.max()),
            edited=lambda program: change_targets_first(program, f"{{y}} / {most:g}"),
            shows=shown,
            is_comparable=False,
        )
    shape = score.prediction.shape
    several = len(shape) > 1 and shape[CLASSES] > 1
    for name in ("softmax", "sigmoid") if several else ("sigmoid",):
        dim = ", dim=1" if name == "softmax" else ""
        yield Remedy(
            title=f"torch.{name}({variable(evidence, 'model')}(x){dim}) before the loss",
            change=lambda subject, name=name: _end_with(subject.model, name),  # type: ignore[misc]
            edited=lambda program, name=name, dim=dim: change_output(  # type: ignore[misc]
                program, f"torch.{name}({{x}}{dim})"
            ),
            shows=shown,
            is_comparable=False,
        )


def _end_with(model: nn.Module, name: str) -> None:
    """The model with an activation at its end."""
    forward = model.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        made = forward(*args, **kwargs)
        if not isinstance(made, Tensor):
            raise CannotTryError("the model gives more than one tensor")
        return torch.sigmoid(made) if name == "sigmoid" else torch.softmax(made, dim=CLASSES)

    model.__dict__["forward"] = run


@answers("empty-reduction")
def judge_all(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """No ignore_index where it is a class; no weights of zero; a divisor of at least 1."""
    for loss in loss_calls(evidence):
        if loss.call.source != finding.source or describe(loss.call) != finding.subject:
            continue
        call = loss.call
        classes = loss.prediction.shape[CLASSES] if len(loss.prediction.shape) > 1 else 0
        ignored = argument(call, "ignore_index", -1)
        is_class = isinstance(ignored, int) and 0 <= ignored < classes
        name = {"ignore-index": "ignore_index" if is_class else "", "weight": "weight"}.get(
            finding.kind
        )
        if name:
            yield Remedy(
                title=f"{describe(call)} without {name}=",
                change=instead(call, _without(name)),
                shows="each label is judged",
                is_comparable=False,
            )
    yield from _divide_by_one(finding, evidence)


def _divide_by_one(finding: Finding, evidence: Evidence) -> Iterator[Remedy]:
    for _, call in rows_at(finding, evidence):
        found = _SAFE.get("loss" if operation(call) in LOSSES else operation(call))
        if found is not None and describe(call) == finding.subject:
            how, code = found
            yield Remedy(
                title=f"{code.format(describe(call))} in place of {describe(call)}",
                change=instead(call, how),
                written=_write_least(call),
                shows="what is over nothing gives 0, and no NaN",
                is_comparable=False,
            )
            return


def _write_least(call: ModuleCall) -> Written | None:
    is_division = operation(call) == "div"
    return (lambda: guard_divisor(call.source, "{x}.clamp(min=1)")) if is_division else None


def _clamp(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(args[0], args[1].clamp(min=1), *args[2:], **kwargs)


def _sum(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0].sum() if not args[0].numel() else func(*args, **kwargs)


def _sum_loss(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    whole = func(*args[:2], **kwargs | {"reduction": "sum"})
    return func(*args, **kwargs) if bool(whole) else whole


_SAFE: dict[str, tuple[Rewriting, str]] = {
    "div": (_clamp, "a / b.clamp(min=1)"),
    "mean": (_sum, "x.sum() / max(1, x.numel())"),
    "loss": (_sum_loss, '{}(..., reduction="sum") / max(1, number of labels)'),
}


def _without(name: str) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args[:2], **{k: v for k, v in kwargs.items() if k != name})

    return run


@answers("loss-always-zero")
def compare_with_targets(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The targets of the batch in the place of what comes from the output."""
    flow, targets = Flow(evidence.trace), variable(evidence, "targets")
    for i in flow.primitives():
        call = flow.calls[i]
        is_there = call.source == finding.source
        if is_there and read_number(flow, i) == 0 and finding.kind == "factor-of-zero":
            yield Remedy(
                title="leave out the factor of 0",
                change=instead(call, pass_on),
                shows="the loss depends on the output",
                is_comparable=False,
            )
            return
        if is_there and describe(call) == finding.subject:
            yield Remedy(
                title=f"compare the output with {targets}",
                change=lambda subject, call=call: _give_targets(subject, call),  # type: ignore[misc]
                shows=f"the output is compared with {targets}",
                is_comparable=False,
            )
            return


def _give_targets(subject: Subject, call: ModuleCall) -> None:
    targets = subject.request.targets
    if not isinstance(targets, Tensor):
        raise CannotTryError("there are no targets beside the output")

    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args[0].shape == targets.shape:
            return func(args[0], targets, *args[2:], **kwargs)
        if targets.is_floating_point() or targets.dim() != args[0].dim() - 1:
            raise CannotTryError("the targets of the batch have another shape")
        return nn.functional.cross_entropy(args[0], targets)

    subject.rewrite(call.kind, call.source, run)
