"""Gradient clipping that clips nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping


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
    explains=("exploding-gradient", "divergence"),
)
def clip_ineffective(evidence: Evidence) -> Iterator[Finding]:
    """The gradients are clipped where no step uses them: after the step, or before the backward.

    Why it matters: the step has already been made with the gradients as they were.
    What to do: clip between backward() and step().
    Known exceptions: clipping of each part while gradients are accumulated.
    Source: torch.nn.utils.clip_grad_norm_, which changes gradients in place.
    """
    events = [e for step in evidence.steps for e in step.events if e.kind in ("clip", "step", "zero_grad", "backward")]
    clips = [i for i, e in enumerate(events) if e.kind == "clip"]
    useless = [i for i in clips if not events[i].effective or _next(events, i) == "zero_grad" or _last(events, i) == "step"]
    if clips and len(useless) == len(clips):
        place = (
            "after the optimizer's step"
            if _last(events, useless[0]) == "step" and events[useless[0]].effective
            else "before the backward pass"
        )
        yield Finding(
            module=None,
            message=f"the gradients are clipped {place}: 0 of {len(clips)} calls came between backward and step",
            fix="move the clip_grad call between loss.backward() and optimizer.step()",
        )


def _next(events: list[Any], i: int) -> str:
    return next((e.kind for e in events[i + 1 :] if e.kind != "clip"), "")


def _last(events: list[Any], i: int) -> str:
    return next((e.kind for e in reversed(events[:i]) if e.kind in ("step", "backward")), "")
