"""The gradients between backward and step: a clip where it belongs, or as backward has left
them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import variable
from cnnprobe.remedies.loop_lines import set_clip_limit
from cnnprobe.remedies.remedy import Remedy
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.training.events import LoopWatch

USUAL_LIMIT = 1.0  # of the gradients' norm: Pascanu et al. 2013, arXiv:1211.5063


def read_limits(subject: Subject) -> dict[str, Any]:
    """The arguments of the first clip of a step."""
    limits: dict[str, Any] = {}

    def on(kind: str, scope: Any, _frame: Any) -> None:
        if kind == "clip" and not limits:
            limits.update(scope)

    if subject.request.train_step is None:
        raise CannotTryError("the standard step clips nothing")
    subject.watch(LoopWatch(on))
    if not limits:
        raise CannotTryError("no clip was seen in the first step")
    return limits


def clip_as(optimizer: Any, limits: dict[str, Any]) -> None:
    """Clip the gradients of an optimizer's parameters by the arguments of a clip."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if "clip_value" in limits:
        nn.utils.clip_grad_value_(parameters, limits["clip_value"])
    elif "max_norm" in limits:
        nn.utils.clip_grad_norm_(parameters, limits["max_norm"], limits.get("norm_type", 2.0))


def clip_again(subject: Subject, factor: float, limit: float | None) -> None:
    """Right before the step: the gradients as backward left them, times `factor`, and then the
    clip, to another limit where one is given.
    """
    limits = read_limits(subject)
    if limit is not None:
        limits |= {name: limit for name in ("max_norm", "clip_value") if name in limits}
    kept = _keep_gradients(subject)

    def clip(optimizer: Any, *_: Any) -> None:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if id(parameter) in kept and parameter.grad is not None:
                parameter.grad.copy_(kept[id(parameter)] * factor)
        clip_as(optimizer, limits)

    for optimizer in subject.optimizers:
        optimizer.register_step_pre_hook(clip)


def _keep_gradients(subject: Subject) -> dict[int, torch.Tensor]:
    """The gradient of each parameter as the latest backward left it, by its id."""
    kept: dict[int, torch.Tensor] = {}

    def keep(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            kept[id(parameter)] = parameter.grad.detach().clone()

    for parameter in subject.model.parameters():
        if parameter.requires_grad:
            hook: Any = parameter.register_post_accumulate_grad_hook(keep)  # type: ignore[no-untyped-call]
            subject.undo(hook.remove)
    return kept


def enlarge_gradients(evidence: Evidence) -> Iterator[Remedy]:
    """A limit of 1 for a clip that leaves next to nothing; the scaled loss differentiated, where a
    scaler divides gradients that were never scaled.
    """
    events = [event for step in evidence.steps for event in step.events]
    scales = [event.rate or 1.0 for event in events if event.kind == "scale"]
    if scales:
        if all(loss.scale == 1.0 for step in evidence.steps for loss in step.losses):
            yield Remedy(
                title="call backward on what scaler.scale(loss) gives",
                change=lambda subject: _multiply(subject, scales[0]),
                by_loss=True,
            )
        return
    yield Remedy(
        title=f"max_norm={USUAL_LIMIT:g} in the clip of the gradients",
        change=lambda subject: clip_again(subject, 1.0, USUAL_LIMIT),
        edited=lambda program: set_clip_limit(program, USUAL_LIMIT),
        by_loss=True,
    )


def keep_gradients(evidence: Evidence) -> Iterator[Remedy]:
    """The gradients as backward has left them, until the step."""
    yield Remedy(
        title=f"leave the gradients as they are until {variable(evidence, 'optimizer')}.step()",
        change=_keep_until_step,
        shows="the weights change in each step",
    )


def _keep_until_step(subject: Subject) -> None:
    kept = _keep_gradients(subject)

    def put_back(optimizer: Any, *_: Any) -> None:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if id(parameter) in kept:
                parameter.grad = kept[id(parameter)]

    for optimizer in subject.optimizers:
        optimizer.register_step_pre_hook(put_back)


def _multiply(subject: Subject, factor: float) -> None:
    for parameter in subject.model.parameters():
        if parameter.requires_grad:
            hook: Any = parameter.register_hook(lambda grad: grad * factor)  # type: ignore[no-untyped-call]
            subject.undo(hook.remove)
