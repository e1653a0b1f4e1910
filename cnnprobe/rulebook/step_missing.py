"""A loop that never steps."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import variable
from cnnprobe.rulebook.material import perceptron, stepping

# training steps without an optimizer step; who accumulates longer clears its gradients less often
PATIENCE = 5


def _loop(steps: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        if steps:
            optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """Zero, backward, and no step."""
    return _loop(steps=False)


def healthy() -> Mapping[str, Any]:
    """With a step."""
    return _loop(steps=True)


@rule(
    code="CP504",
    name="step-missing",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "unchanged-weights",
        "loss-not-decreasing",
        "cannot-overfit",
        "no-zero-grad",
        "lr-too-low",
    ),
)
def step_missing(evidence: Evidence) -> Iterator[Finding]:
    """Gradients are computed, and no optimizer uses them.

    Why it matters: no parameter ever changes; or, in a loop that should add up several batches, all
    but the last are lost.
    What to do: optimizer.step() after loss.backward(); an update by hand has to write in place;
    to add up the gradients of several batches, zero_grad() after the step alone.
    Known exceptions: accumulation over a few batches; updates by hand that change the parameters;
    passes for the gradient of an input, for SAM's first step, or whose gradients are put together
    by hand; gradients that are not finite.
    Source: torch.optim, "Taking an optimization step".
    """
    cleared = _find_cleared(evidence)
    if cleared is not None:
        yield cleared
        return
    events = [e.kind for step in evidence.steps for e in step.events]
    steps = "step" in events or "backward" not in events
    if not evidence.own_loop or steps or len(evidence.steps) < 2:
        return
    if any(change > 0 for step in evidence.steps for change in step.changes.values()):
        return
    backwards = events.count("backward")
    if "zero_grad" in events[events.index("backward") :] or len(evidence.steps) >= PATIENCE:
        yield Finding(
            module=None,
            message=(
                f"{backwards} backward passes were followed by 0 optimizer steps: no parameter "
                "changed"
            ),
            fix=f"call {variable(evidence, 'optimizer')}.step() after loss.backward()"
            if evidence.optimizers
            else (
                "use an optimizer, or write to the parameters in place: p -= lr * p.grad, as p = "
                "p - lr * p.grad only makes a new tensor"
            ),
        )


def _find_cleared(evidence: Evidence) -> Finding | None:
    """Gradients that every step clears before it uses them."""
    wasted = sum(step.wasted for step in evidence.steps)
    passes = sum(len(step.losses) for step in evidence.steps)
    if not evidence.own_loop or not wasted or not _is_always(evidence):
        return None
    name = next(
        (e.subject for s in evidence.steps for e in s.events if e.kind == "zero_grad"),
        variable(evidence, "optimizer"),
    )
    is_rare = steps_rarely(evidence)
    rest = "the last backward pass before" if is_rare else "the last batch of"
    return Finding(
        module=None,
        message=(
            f"the gradients of {wasted} of {passes} backward passes are cleared before a step "
            f"uses them: only {rest} each step counts"
        ),
        fix=(
            f"call {name}.zero_grad() right after {name}.step(), and nowhere else"
            if is_rare
            else f"call {name}.zero_grad() once for each step, before the first of the backward "
            "passes that it adds up"
        ),
        kind="cleared-between-steps" if is_rare else "",
    )


def steps_rarely(evidence: Evidence) -> bool:
    """Whether some calls of the training step make gradients, and leave the step to a later one."""
    return any(
        step.losses and not any(e.kind == "step" for e in step.events) for step in evidence.steps
    )


def _is_always(evidence: Evidence) -> bool:
    """Whether each of the steps wastes a pass; the first may come before there is anything to
    waste.
    """
    stepping = [s for s in evidence.steps if any(e.kind == "step" for e in s.events) and s.losses]
    if not steps_rarely(evidence):
        return all(step.wasted for step in evidence.steps if step.losses)
    return bool(stepping) and all(step.wasted for step in stepping[not stepping[0].wasted :])
