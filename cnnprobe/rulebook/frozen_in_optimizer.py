"""Frozen parameters in an optimizer."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import owner, topmost, variable
from cnnprobe.rulebook.material import classifying, perceptron


def _training(everything: bool) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    model[1].requires_grad_(False)
    parameters = [p for p in model.parameters() if everything or p.requires_grad]
    return classifying(model, optimizer=torch.optim.SGD(parameters, lr=0.05))


def sick() -> Mapping[str, Any]:
    """All parameters, of which some are frozen."""
    return _training(everything=True)


def healthy() -> Mapping[str, Any]:
    """Those that require grad."""
    return _training(everything=False)


@rule(code="CP307", name="frozen-in-optimizer", severity=Severity.INFO, examples=(sick, healthy))
def frozen_in_optimizer(evidence: Evidence) -> Iterator[Finding]:
    """An optimizer holds parameters that are frozen.

    Why it matters: harmless as long as they have no gradient; one that was frozen in the middle of
    training may still move by its momentum.
    What to do: give the optimizer only those with requires_grad.
    Known exceptions: gradual unfreezing, where the text has a requires_grad_(True); a critic that
    the loop freezes after its own step.
    Source: torch.optim skips parameters whose .grad is None.
    """
    if evidence.texts.unfreezes:  # they wait there until then
        return
    frozen = {p.fqn for p in evidence.trace.parameters if p.kind == "parameter" and not p.trainable}
    frozen -= {name for step in evidence.steps for name in step.gradients}
    for optimizer in evidence.optimizers:
        held = optimizer.parameters & frozen
        if held:
            first = topmost({owner(p) for p in held}, evidence.trace)[0]
            yield Finding(
                module=first,
                message=(
                    f"{len(held)} of {optimizer.name}'s {len(optimizer.parameters)} parameters "
                    "are frozen"
                ),
                fix=(
                    f"build {optimizer.name} from (p for p in "
                    f"{variable(evidence, 'model')}.parameters() if p.requires_grad)"
                ),
            )
