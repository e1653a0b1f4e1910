"""Gradients that are never cleared."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.questions import owner, spoken, topmost, variable
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(cleared: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        if cleared:
            optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """No zero_grad."""
    return _loop(cleared=False)


def healthy() -> Mapping[str, Any]:
    """Cleared before each backward."""
    return _loop(cleared=True)


@rule(
    code="CP501",
    name="no-zero-grad",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    monitored=True,
    explains=(
        "divergence",
        "lr-too-high",
        "exploding-gradient",
        "loss-not-decreasing",
        "cannot-overfit",
        "update-ratio",
    ),
)
def no_zero_grad(evidence: Evidence) -> Iterator[Finding]:
    """The optimizer steps with gradients to which those of earlier steps, of another optimizer's
    loss, or of an attack on the input were added.

    Why it matters: backward adds to .grad; without zero_grad each step repeats all earlier ones.
    What to do: optimizer.zero_grad() before backward.
    Known exceptions: accumulation, which adds up several batches and clears after the step.
    Source: torch.optim.Optimizer.zero_grad.
    """
    mixed = next((step.mixed for step in evidence.steps if step.mixed is not None), None)
    if mixed is not None:
        optimizer, other, count = mixed
        yield Finding(
            module=None,
            message=(
                f"{optimizer} used {format_counted(count, 'gradient')} that still held those of "
                f"the loss that {other} had stepped with"
            ),
            fix=(
                f"call {optimizer}.zero_grad() after {other}.step() and before the next backward, "
                f"or detach() what {other}'s loss should not reach"
            ),
        )
        return
    attack = _find_attack(evidence)
    if attack is not None:
        yield attack
        return
    for number, step in enumerate(evidence.steps):
        if step.stale:
            name = next(
                (e.subject for e in step.events if e.kind == "step"),
                variable(evidence, "optimizer"),
            )
            places = topmost({owner(p) for p in step.stale}, evidence.trace)
            of = f" of {spoken(evidence, places[0])}" if len(places) == 1 and places[0] else ""
            yield Finding(
                module=None,
                message=(
                    f"in step {number + 1} {name} used "
                    f"{format_counted(len(step.stale), 'gradient')}{of} that still "
                    "held those of the step before: there was no zero_grad between them"
                ),
                fix=f"call {name}.zero_grad() before loss.backward()",
                subject=name,
            )
            return


def _find_attack(evidence: Evidence) -> Finding | None:
    """A loss whose gradient of the input moves the input, in a function of its own, and whose
    gradients of the weights are stepped with, too.
    """
    step = evidence.steps[0] if evidence.steps and evidence.own_loop else None
    if step is None or len(step.losses) < len(("the attack's", "the training's")):
        return None
    flow = Flow(step.trace)
    moves = [i for i in flow.primitives({"sign"}) if _is_of_outside(flow, i)]
    moved = [r for r in flow.roots() if any(m in _list_before(flow, r) for m in moves)]
    places = [i for i, event in enumerate(step.events) if event.kind == "backward"]
    last = step.losses[-1]
    if not moved or len(places) != len(step.losses) or last.call is None or last.foreign:
        return None
    name, own = (step.events[places[k]].subject for k in (0, -1))
    between = step.events[places[0] : places[-1]]
    is_left = all(event.kind not in ("zero_grad", "step") for event in between)
    first = step.losses[0]
    if not first.foreign or not is_left or name == own or last.call < moved[-1]:
        return None
    if not first.reached & last.reached & last.trained:
        return None
    optimizer = next((e.subject for e in step.events if e.kind == "step"), "optimizer")
    return Finding(
        module=None,
        message=(
            f"the backward in {name} leaves gradients in {len(first.reached & last.trained)} "
            f"weights of the model, and {optimizer} steps with them: it was made for the gradient "
            "of the input"
        ),
        fix=(
            f"call {optimizer}.zero_grad() behind {name}, or take the gradient there by "
            "torch.autograd.grad(loss, x)"
        ),
        source=flow.line(first.call),
        kind="attack",
    )


def _is_of_outside(flow: Flow, row: int) -> bool:
    """Whether a row takes a tensor of floats that no row has made, as x.grad."""
    data = flow.data(row)
    return data is not None and data.source is None and data.dtype.startswith(("float", "bfloat"))


def _list_before(flow: Flow, root: int) -> set[int]:
    """The rows that the input of a pass comes from."""
    made = [flow.producer(info) for info in flow.calls[root].inputs]
    return {j for i in made if i is not None for j in (i, *flow.before(i))}
