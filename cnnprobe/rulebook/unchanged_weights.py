"""Weights that the steps do not change."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, OptimizerInfo, Step
from cnnprobe.diagnosis.evidence.questions import (
    clears_before_stepping,
    is_idle,
    optimised,
    owner,
    spoken,
    topmost,
    trainable,
    warms_up,
)
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, perceptron

EPSILON = 2.0**-24  # half of float32's precision: a smaller relative change is rounded away


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
    monitored=True,
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def unchanged_weights(evidence: Evidence) -> Iterator[Finding]:
    """An optimizer steps with gradients, and weights are bit for bit the same afterwards.

    Why it matters: nothing is learned.
    What to do: check the learning rate of their group, and whether the step is smaller than the
    precision of the weights (float16).
    Known exceptions: a scheduler that warms up from 0; a parameter group with a learning rate of 0
    beside others is info, as some freeze layers by it; LBFGS, which ends by itself where its
    gradients or its steps are small enough. An optimizer that never steps is `idle-optimizer`, a
    change that is taken back `update-undone`.
    Source: the parameters before and after the observed steps.
    """
    steps = [s for s in evidence.steps if s.changes and any(e.kind == "step" for e in s.events)]
    rates = [e.rate for s in evidence.steps for e in s.events if e.kind == "schedule" and e.rate]
    if len(steps) < 2 or rates or warms_up(evidence) or clears_before_stepping(evidence):
        return
    moving = any(change > 0 for s in steps for change in s.changes.values())
    still = [
        name
        for name, holder in _holders(evidence).items()
        if _has_gradients(steps, name)
        and all(s.changes.get(name) == 0 and not s.stepped.get(name) for s in steps)
        and not is_idle(evidence, holder)
        and not _has_arrived(holder)
        and _should_move(evidence, steps[0], name, moving=moving)
    ]
    for module in topmost({owner(name) for name in still}, evidence.trace)[:3]:
        yield _to_finding(evidence, module, still, len(steps))


def _holders(evidence: Evidence) -> dict[str, OptimizerInfo]:
    """The trainable weights of two dims or more that an optimizer holds."""
    return {
        name: next(o for o in evidence.optimizers if name in o.parameters)
        for name, parameter in trainable(evidence).items()
        if len(parameter.shape) > 1 and name in optimised(evidence)
    }


def _has_arrived(holder: OptimizerInfo) -> bool:
    """Whether it ends by itself where nothing is left to gain, as LBFGS does."""
    return any(holder.rates) and any("tolerance_grad" in each for each in holder.settings)


def _has_gradients(steps: list[Step], name: str) -> bool:
    found = [s.gradients.get(name) for s in steps]
    return all(g is not None and g.norm > 0 and not g.nonfinite for g in found)


def _should_move(evidence: Evidence, step: Step, name: str, *, moving: bool) -> bool:
    """Whether a step of plain gradient descent would be larger than the rounding of the weight;
    with a rate of 0 any would.
    """
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


def _to_finding(evidence: Evidence, module: str, names: list[str], count: int) -> Finding:
    inside = [n for n in names if not module or n.startswith(f"{module}.")]
    holder = next(o for o in evidence.optimizers if any(n in o.parameters for n in inside))
    weights = f"the weights of {spoken(evidence, module)}"
    if holder.resting.issuperset(inside):
        return Finding(
            module=module,
            severity=Severity.INFO,
            message=(
                f"{weights} have gradients, and a learning rate of 0 in their group of "
                f"{holder.name}: they stay as they are"
            ),
            fix=f"set lr of that group; or {spoken(evidence, module)}.requires_grad_(False)",
            kind="resting-group",
            subject=holder.name,
        )
    kind, message, fix = _say_why(evidence, inside, holder, format_counted(count, "optimizer step"))
    return Finding(
        module=module, message=f"{weights} {message}", fix=fix, kind=kind, subject=holder.name
    )


def _say_why(
    evidence: Evidence, inside: list[str], holder: OptimizerInfo, steps: str
) -> tuple[str, str, str]:
    """The kind of the fault, what the weights do, and the fix."""
    if any(e.kind == "clip" and e.rate == 0 for s in evidence.steps for e in s.events):
        return (
            "clipped-away",
            f"do not change in {steps}: the clip leaves 0 of their gradients",
            "raise the limit of the clip_grad call, 1.0 to begin with",
        )
    if _are_lost(evidence, inside):
        return (
            "gradients-cleared",
            (
                f"have gradients after backward, but did not change in {steps}: something sets "
                "the gradients to 0 or None in between"
            ),
            f"leave p.grad alone between backward and {holder.name}.step()",
        )
    rates = ", ".join(f"{r:g}" for o in evidence.optimizers for r in o.rates)
    message = f"have gradients, but did not change in {steps} (learning rates: {rates})"
    if not any(holder.rates):
        return "rate-of-zero", message, f"set lr of {holder.name} to more than 0"
    return (
        "rounded-away",
        message,
        (
            f"raise lr of {holder.name}, or hold the weights in float32: the steps are smaller "
            "than the precision of the weights"
        ),
    )


def _are_lost(evidence: Evidence, names: list[str]) -> bool:
    """Whether the gradients that backward has left would have moved each of the weights."""
    rates = [r for o in evidence.optimizers for r in o.rates]
    first = evidence.steps[0]
    sizes = [
        max(rates) * first.gradients[name].norm / value.norm
        for name in names
        if (value := evidence.values.get(name)) is not None and value.norm
    ]
    return evidence.own_loop and bool(sizes) and min(sizes) > EPSILON
