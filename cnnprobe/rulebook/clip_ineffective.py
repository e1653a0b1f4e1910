"""Gradient clipping in the wrong place."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.pace import relative_changes
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping

LITTLE = 0.01  # share of a gradient that clipping leaves
STILL = 1e-5  # of a weight's size in a step; 1e-3 is usual (Karpathy, CS231n)


def _loop(late: bool) -> Mapping[str, Any]:
    import torch

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        if not late:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if late:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """After the step."""
    return _loop(late=True)


def healthy() -> Mapping[str, Any]:
    """Between backward and step."""
    return _loop(late=False)


@rule(
    code="CP503",
    name="clip-ineffective",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("exploding-gradient", "divergence", "lr-too-low"),
)
def clip_ineffective(evidence: Evidence) -> Iterator[Finding]:
    """The gradients are clipped where no step uses them, after the step or before the backward, or
    while a GradScaler's factor is in them.

    Why it matters: the step has already been made with the gradients as they were; scaled ones are
    cut to next to nothing.
    What to do: clip between backward() and step(), and after scaler.unscale_(optimizer). A limit
    that leaves less than a hundredth of the gradients is reported too, where plain SGD then moves
    no weight.
    Known exceptions: clipping of each part while gradients are accumulated.
    Source: torch.nn.utils.clip_grad_norm_, which changes gradients in place.
    """
    scaled = _scaled(evidence)
    if scaled is not None:
        yield Finding(
            module=None,
            message=(
                f"the gradients are clipped while they are still multiplied by {scaled:g}, the "
                "scale of the loss: the limit is that much too low"
            ),
            fix="call scaler.unscale_(optimizer) before the clip_grad call",
        )
        return
    events = [
        e
        for step in evidence.steps
        for e in step.events
        if e.kind in ("clip", "step", "zero_grad", "backward")
    ]
    clips = [i for i, e in enumerate(events) if e.kind == "clip"]
    yield from _find_tiny(evidence, [events[i].rate for i in clips])
    useless = [
        i
        for i in clips
        if not events[i].effective or _next(events, i) == "zero_grad" or _last(events, i) == "step"
    ]
    elsewhere = [i for i in useless if not events[i].effective and _last(events, i) == "backward"]
    if clips and len(elsewhere) == len(clips):
        yield Finding(
            module=None,
            message=(
                "the gradients are clipped of parameters that have none: "
                f"0 of {format_counted(len(clips), 'call')} touched a gradient of this backward"
            ),
            fix="pass the parameters of the model that is trained to clip_grad",
            kind="elsewhere",
        )
    elif clips and len(useless) == len(clips):
        place = (
            "after the optimizer's step"
            if _last(events, useless[0]) == "step" and events[useless[0]].effective
            else "before the backward pass"
        )
        yield Finding(
            module=None,
            message=(
                f"the gradients are clipped {place}: 0 of {len(clips)} calls came between "
                "backward and step"
            ),
            fix="move the clip_grad call between loss.backward() and optimizer.step()",
        )


def _find_tiny(evidence: Evidence, shares: list[float | None]) -> Iterator[Finding]:
    """A limit that leaves so little of every gradient that the weights stand still."""
    known = [share for share in shares if share is not None]
    if not shares or len(known) < len(shares) or max(known) > LITTLE:
        return
    rate = max((r for o in evidence.optimizers for r in o.rates), default=0.0)
    moved = relative_changes(evidence.steps, evidence.values, rate)
    if moved and statistics.median(moved) < STILL:
        yield Finding(
            module=None,
            message=(
                f"clipping leaves {statistics.median(known):.2g} of the gradients (less than "
                f"{LITTLE:g}), and a step changes the weights by {statistics.median(moved):.1e} "
                f"of their size (less than {STILL:g})"
            ),
            fix="raise the limit of clip_grad: a max_norm of 1 is usual",
            kind="tiny",
        )


def _scaled(evidence: Evidence) -> float | None:
    """The scale that gradients are clipped with, where every clip comes before the unscaling."""
    found: list[float | None] = []
    for step in evidence.steps:
        scale: float | None = None
        for event in step.events:
            if event.kind == "scale":
                scale = event.rate
            elif event.kind == "unscale":
                scale = None
            elif event.kind == "clip":
                found.append(scale if scale is not None and scale > 1 else None)
    return found[0] if found and None not in found else None


def _next(events: list[Any], i: int) -> str:
    return next((e.kind for e in events[i + 1 :] if e.kind != "clip"), "")


def _last(events: list[Any], i: int) -> str:
    return next((e.kind for e in reversed(events[:i]) if e.kind in ("step", "backward")), "")
