"""Remedies of large gradients: fresh weights, and a clip where it works."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import variable
from cnnprobe.remedies.gradients import clip_again, clip_as, read_limits
from cnnprobe.remedies.initialisation import initialise_every_layer
from cnnprobe.remedies.loop_lines import add_clip, add_unscale, move_clip
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import Subject


@answers("clip-ineffective")
def clip_between(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The same clip right before the optimizer's step."""
    if finding.kind in ("elsewhere", "tiny"):
        return  # its limit, or what it is given, is wrong
    if any(event.kind == "scale" for step in evidence.steps for event in step.events):
        scale = max((loss.scale for s in evidence.steps[:1] for loss in s.losses), default=1.0)
        name = variable(evidence, "optimizer")
        yield Remedy(
            title=f"call scaler.unscale_({name}) before the clip",
            change=lambda subject: clip_again(subject, 1 / scale, None),
            edited=add_unscale,
            by_loss=True,
        )
        return
    yield Remedy(
        title="move the clip_grad call between loss.backward() and optimizer.step()",
        change=_clip_between,
        edited=move_clip,
        shows="every step uses gradients that are clipped",
        is_comparable=False,
    )


def _clip_between(subject: Subject) -> None:
    limits = read_limits(subject)

    def clip(optimizer: Any, *_: Any) -> None:
        clip_as(optimizer, limits)

    for optimizer in subject.optimizers:
        optimizer.register_step_pre_hook(clip)


@answers("exploding-gradient")
def clip_gradients(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Fresh weights by fan-in; then a clip before each step."""
    yield replace(initialise_every_layer(model), by_loss=True)
    yield Remedy(
        title="clip the gradients to a norm of 1 between backward and step",
        change=_clip_to_one,
        edited=lambda program: add_clip(program, 1.0),
        by_loss=True,
    )


def _clip_to_one(subject: Subject) -> None:
    def clip(optimizer: Any, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)

    for optimizer in subject.optimizers:
        optimizer.register_step_pre_hook(clip)
