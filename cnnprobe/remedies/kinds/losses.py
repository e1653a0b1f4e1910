"""Remedies of the loss: the order of its arguments, what of them is a target, and its sign."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, describe, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls, variable
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.call_lines import exchange_first, negate_loss
from cnnprobe.remedies.kinds.calls import instead, rows_at
from cnnprobe.remedies.kinds.heads import TINY
from cnnprobe.remedies.model_lines import detach_argument
from cnnprobe.remedies.program import set_option
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import Subject
from cnnprobe.rulebook.trained_target import find_unread_targets, list_weights


@answers("trained-target")
def detach_target(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A detach of the second argument, whose own weights the optimizer leaves out."""
    if find_unread_targets(evidence):
        return  # they are what the output was to be compared with
    for flow, call in rows_at(finding, evidence)[:1]:
        if len(call.inputs) < 2:
            return  # a square by hand: which part of it is the target stands elsewhere
        first, second = (list_weights(evidence, flow, info) for info in call.inputs[:2])
        left = set() if finding.kind else second - first
        without = f", and leave its {len(left)} weights out of the optimizer" if left else ""
        yield Remedy(
            title=f"detach() the second argument of {describe(call)}{without}",
            change=functools.partial(_fix_target, call=call, left=left),
            written=None if left else lambda call=call: detach_argument(call.source, call.kind, 1),  # type: ignore[misc]
            shows="one of the two is a target",
            is_comparable=False,
        )


def _fix_target(subject: Subject, call: ModuleCall, left: set[str]) -> None:
    instead(call, _detach_second)(subject)
    ids = {id(p) for name, p in subject.model.named_parameters() if name in left}
    for group in (group for each in subject.optimizers for group in each.param_groups):
        group["params"][:] = [p for p in group["params"] if id(p) not in ids]


def _detach_second(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(args[0], args[1].detach(), *args[2:], **kwargs)


@answers("swapped-arguments")
def swap_back(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """First the output, then the targets; of probabilities the logarithm, where logits are
    expected.
    """
    name = variable(evidence, "loss_fn")
    for loss in loss_calls(evidence):
        if loss.call.source == finding.source and describe(loss.call) == finding.subject:
            row = loss.flow.origin(loss.target) if loss.target is not None else None
            if row is not None and operation(loss.flow.calls[row]) == "softmax":
                yield Remedy(
                    title=f"{name}(logits, targets), without the softmax",
                    change=instead(loss.call, _swap_logarithm),
                    shows="the loss judges the output by the targets",
                    is_comparable=False,
                )
            yield Remedy(
                title=f"{name}(output, targets) in place of {name}(targets, output)",
                change=instead(loss.call, _swap),
                edited=lambda program, call=loss.call: exchange_first(program, call),  # type: ignore[misc]
                shows="the loss judges the output by the targets",
                is_comparable=False,
            )
            return


def _swap_logarithm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(args[1].clamp_min(TINY).log(), args[0], *args[2:], **kwargs)


def _swap(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(args[1], args[0], *args[2:], **kwargs)


@answers("loss-sign", "maximised-error", "minimised-likelihood", "minimised-similarity")
def turn_sign(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The other sign of the loss that backward starts at; no maximize=True."""
    if any(optimizer.maximize for optimizer in evidence.optimizers):
        yield Remedy(
            title=f"build {variable(evidence, 'optimizer')} without maximize=True",
            change=_minimise,
            edited=lambda program: [
                change
                for info in evidence.optimizers
                if info.maximize
                for change in set_option(program, "maximize", value=False, of=info.name)
            ],
            shows="the optimizer makes the error smaller",
            is_comparable=False,
        )
        return
    losses = [loss.call for step in evidence.steps[:1] for loss in step.losses]
    is_term = finding.kind == "rewarded"  # further terms keep their sign
    if losses and losses[0] is not None and not is_term:
        call = evidence.trace.calls[losses[0]]
        yield Remedy(
            title="turn the sign of the loss",
            change=lambda subject: subject.rewrite(call.kind, call.source, negate),
            edited=negate_loss,
            shows="the optimizer makes the error smaller",
            is_comparable=False,
        )


def negate(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Minus what the call gives."""
    return -func(*args, **kwargs)


def _minimise(subject: Subject) -> None:
    for optimizer in subject.optimizers:
        for group in optimizer.param_groups:
            group["maximize"] = False
