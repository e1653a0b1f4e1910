"""Weights that the steps do not change."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Event, Evidence, Step
from cnnprobe.diagnosis.evidence.questions import (
    optimised,
    owner,
    spoken,
    topmost,
    trainable,
    warms_up,
)
from cnnprobe.rulebook.material import classifying, perceptron


def _training(rate: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=rate))


def sick() -> Mapping[str, Any]:
    """A learning rate of 0."""
    return _training(0.0)


def healthy() -> Mapping[str, Any]:
    """One of 1e-3."""
    return _training(1e-3)


@rule(
    code="CP205",
    name="unchanged-weights",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def unchanged_weights(evidence: Evidence) -> Iterator[Finding]:
    """An optimizer steps, and parameters are bit for bit the same afterwards, its change is taken back, or it has no gradients to step with.

    Why it matters: nothing is learned.
    What to do: call backward before the step and zero_grad before the backward; check the learning rate of their group, and whether the step is smaller than the precision of the weights (float16).
    Known exceptions: a scheduler that warms up from 0, which is 0 at its first count alone.
    Source: the parameters before and after the observed steps.
    """
    order = _order(evidence)
    if order is not None:
        yield order
        return
    undone = _undone(evidence) or _held_at_zero(evidence)
    if undone is not None:
        yield undone
        return
    steps = [s for s in evidence.steps if s.changes and any(e.kind == "step" for e in s.events)]
    rates = [e.rate for s in evidence.steps for e in s.events if e.kind == "schedule" and e.rate]
    if len(steps) < 2 or rates:
        return
    still = [
        name for name in trainable(evidence)
        if name in optimised(evidence) and steps and len(trainable(evidence)[name].shape) > 1 and all(s.changes.get(name) == 0 for s in steps)
        and all(g is not None and g.norm > 0 and not g.nonfinite for s in steps for g in [s.gradients.get(name)])
    ]  # fmt: skip
    moving = any(change > 0 for s in steps for change in s.changes.values())
    still = [name for name in still if _should_move(evidence, steps[0], name, moving=moving)]
    if not still or warms_up(evidence):
        return
    for module in topmost({owner(n) for n in still}, evidence.trace)[:3]:
        yield _still(evidence, module, still, len(steps))


def _still(evidence: Evidence, module: str, names: list[str], count: int) -> Finding:
    """The optimizer that holds the module's weights never steps, or its steps are nothing."""
    inside = [n for n in names if not module or n.startswith(f"{module}.")]
    holder = next(o for o in evidence.optimizers if any(n in o.parameters for n in inside))
    idle = not any(
        e.kind == "step" and e.subject == holder.name for s in evidence.steps for e in s.events
    )
    rates = ", ".join(f"{r:g}" for o in evidence.optimizers for r in o.rates)
    why = f"0 of them {holder.name}'s, which holds them" if idle else f"learning rates: {rates}"
    return Finding(
        module=module,
        message=f"the weights of {spoken(evidence, module)} have gradients, but did not change in {count} optimizer steps ({why})",
        fix=f"call {holder.name}.step() after loss.backward()"
        if idle
        else f"set lr of {holder.name} to more than 0, or train in float32",
    )


def _order(evidence: Evidence) -> Finding | None:
    """The optimizer's steps have nothing to use: no backward comes before them, or its gradients are cleared first."""
    events = [
        e
        for step in evidence.steps
        for e in step.events
        if e.kind in ("zero_grad", "backward", "step")
    ]
    stepped = [i for i, e in enumerate(events) if e.kind == "step"]
    if not evidence.own_loop or len(stepped) < 2:
        return None
    name = events[stepped[0]].subject
    if not any(e.kind == "backward" for e in events):
        if any(change > 0 for step in evidence.steps for change in step.changes.values()):
            return None  # gradients may be made by hand
        return Finding(
            module=None,
            message=f"{name} steps {len(stepped)} times after 0 backward passes: no parameter has a gradient",
            fix=f"call loss.backward() before {name}.step()",
        )
    if all(_cleared_before(events, i) for i in stepped):
        return Finding(
            module=None,
            message=f"{name}.zero_grad() comes between backward and step: 0 of {len(stepped)} steps have a gradient to use",
            fix=f"move {name}.zero_grad() to before loss.backward()",
        )
    return None


def _cleared_before(events: list[Event], step: int) -> bool:
    """Whether the last thing before this step is a zero_grad of the same optimizer, and a backward the one before it."""
    before = [
        e for e in events[:step] if e.kind != "zero_grad" or e.subject == events[step].subject
    ]
    return len(before) > 1 and before[-1].kind == "zero_grad" and before[-2].kind == "backward"


UNDONE = 0.05  # of an optimizer's change that is left at the end of the step; an average with decay 0.99 leaves 0.01


def _undone(evidence: Evidence) -> Finding | None:
    """Something writes to the weights after the optimizer, and takes back what it did."""
    steps = [s for s in evidence.steps if s.stepped and s.changes]
    left = [
        s.changes[n] / moved
        for s in steps
        for n, moved in s.stepped.items()
        if moved > 0 and n in s.changes
    ]
    if not evidence.own_loop or len(steps) < 2 or not left or max(left) > UNDONE:
        return None
    return Finding(
        module=None,
        message=f"of what {evidence.optimizers[0].name} changes, at most {max(left):.1%} is left at the end of the step (less than {UNDONE:.0%}): something writes the old weights back",
        fix="copy the model into its average or its best state, not the other way round, and restore weights that were swapped for an evaluation",
    )


def _held_at_zero(evidence: Evidence) -> Finding | None:
    """Every group's factor of a LambdaLR is 0 at more than its start: a warm-up leaves 0 with its first count."""
    zeros = [
        sum(1 for _ in itertools.takewhile(lambda factor: factor == 0, s.factors))
        for s in evidence.schedules
    ]
    if not zeros or min(zeros) < 2 or any(rate for o in evidence.optimizers for rate in o.rates):
        return None
    return Finding(
        module=None,
        severity=Severity.WARNING,
        message=f"{evidence.schedules[0].name} multiplies the learning rate by 0 in its first {min(zeros)} counts (a warm-up does in 1 at most): nothing is learned in them",
        fix="let its function return a factor above 0 from the second count on: (count + 1) / n with / and not //, min(1.0, ...) around it",
    )


EPSILON = 2.0**-24  # half of float32's precision: a smaller relative change is rounded away


def _should_move(evidence: Evidence, step: Step, name: str, *, moving: bool) -> bool:
    """Whether a step of plain gradient descent would be larger than the rounding of the weight; with a rate of 0 any would."""
    rates = [r for o in evidence.optimizers if name in o.parameters for r in o.rates]
    if not any(rates):
        return True
    value = evidence.values.get(name)
    relative = (
        max(rates) * step.gradients[name].norm / value.norm
        if value is not None and value.norm
        else 0.0
    )
    return relative > EPSILON or (not moving and max(rates) > 1e-6)
