"""A step with gradients that a GradScaler's factor is still in."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Step
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(by_scaler: bool) -> Mapping[str, Any]:
    import torch

    scaler = torch.amp.GradScaler("cpu")

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        scaler.scale(loss_fn(model(inputs), targets)).backward()
        if by_scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """optimizer.step() behind scaler.scale(loss)."""
    return _loop(by_scaler=False)


def healthy() -> Mapping[str, Any]:
    """scaler.step(optimizer), which divides first."""
    return _loop(by_scaler=True)


@rule(
    code="CP543",
    name="unscaled-step",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "lr-too-high",
        "divergence",
        "update-ratio",
        "exploding-gradient",
        "nan-backward",
        "nan-parameter",
        "nan-forward",
        "loss-not-decreasing",
        "cannot-overfit",
    ),
)
def unscaled_step(evidence: Evidence) -> Iterator[Finding]:
    """The loss is scaled by a GradScaler, and the optimizer steps with the gradients as they are.

    Why it matters: each step is as many times too large as the scale says, 65536 at first; Adam
    hides that, and its eps and the clipping limit are wrong by it.
    What to do: scaler.step(optimizer) and scaler.update() in the place of optimizer.step().
    Known exceptions: gradients that scaler.unscale_ has divided before; a scale of 1.
    Source: torch.amp.GradScaler.step, "if not already unscaled, unscales the gradients".
    """
    found = [_find_scale(step) for step in evidence.steps]
    scales = [scale for scale in found if scale is not None]
    if scales and len(scales) == len(found):
        yield Finding(
            module=None,
            message=(
                f"the loss is multiplied by {scales[0]:g} before backward, and the optimizer "
                f"steps with these gradients in {format_counted(len(scales), 'step')}: nothing "
                "divides them again"
            ),
            fix="scaler.step(optimizer) and scaler.update() in the place of optimizer.step()",
        )


def _find_scale(step: Step) -> float | None:
    """The scale that is in the gradients when an optimizer steps; None where there is none."""
    scale: float | None = None
    for event in step.events:
        if event.kind == "scale":
            scale = event.rate if event.rate is not None and event.rate > 1 else None
        elif event.kind in ("unscale", "zero_grad"):
            scale = None
        elif event.kind == "step" and scale is not None:
            return scale
    return None
