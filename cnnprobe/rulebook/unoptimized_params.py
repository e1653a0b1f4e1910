"""Parameters that no optimizer holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import (
    optimised,
    owner,
    reached,
    spoken,
    topmost,
    trainable,
    variable,
)
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, perceptron


def _training(parts: int) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    parameters = [p for layer in list(model)[:parts] for p in layer.parameters()]
    return classifying(model, optimizer=torch.optim.SGD(parameters, lr=0.05))


def sick() -> Mapping[str, Any]:
    """The head was forgotten."""
    return _training(2)


def healthy() -> Mapping[str, Any]:
    """All layers."""
    return _training(4)


@rule(
    code="CP304",
    name="unoptimized-params",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit",),
)
def unoptimized_params(evidence: Evidence) -> Iterator[Finding]:
    """Trainable parameters get gradients, but no optimizer holds them.

    Why it matters: they stay at their initial values for ever, and their gradients pile up.
    What to do: build the optimizer from model.parameters(), or freeze them with
    requires_grad_(False).
    Known exceptions: frozen parameters; parameters of which another optimizer was seen to take
    care.
    Source: torch.optim, "you have to give it an iterable containing the parameters".
    """
    if any(o.foreign for o in evidence.optimizers):
        return  # then the optimizer is a stale one, which is reported as such
    forgotten = missing(evidence)
    names = ", ".join(o.name for o in evidence.optimizers)
    for module in topmost({owner(p) for p in forgotten}, evidence.trace):
        own = [p for p in forgotten if module in ("", owner(p)) or p.startswith(module + ".")]
        count = len(own)
        named = ", ".join(own[:3]) + (f" and {count - 3} more" if count > 3 else "")
        yield Finding(
            module=module,
            message=(
                f"{format_counted(count, 'trainable parameter')} of {spoken(evidence, module)} "
                f"{'gets gradients, but is' if count == 1 else 'get gradients, but are'} "
                f"in no optimizer: {named} ({names} has {len(optimised(evidence))})"
            ),
            fix=(
                f"give {names} all of {variable(evidence, 'model')}.parameters(), or freeze "
                f"these: {spoken(evidence, module)}.requires_grad_(False)"
            ),
        )


def missing(evidence: Evidence) -> list[str]:
    """Trainable, reached parameters that no optimizer holds and no step changed."""
    arrived = reached(evidence)
    if (
        not evidence.optimizers
        or arrived is None
        or not any(e.kind == "step" for step in evidence.steps for e in step.events)
    ):
        return []
    changed = {
        name for step in evidence.steps for name, change in step.changes.items() if change > 0
    }
    return [
        p
        for p in trainable(evidence)
        if p in arrived and p not in optimised(evidence) and p not in changed
    ]
