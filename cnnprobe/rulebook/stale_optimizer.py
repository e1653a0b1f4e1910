"""An optimizer of parameters that the model no longer has."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import owner, spoken, topmost
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, perceptron
from cnnprobe.rulebook.unoptimized_params import missing


def _training(late: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = perceptron()
    early = torch.optim.SGD(model.parameters(), lr=0.05)
    model[3] = nn.Linear(32, 4)
    return classifying(
        model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05) if late else early
    )


def sick() -> Mapping[str, Any]:
    """The head was replaced after the optimizer was built."""
    return _training(late=False)


def healthy() -> Mapping[str, Any]:
    """The optimizer was built afterwards."""
    return _training(late=True)


@rule(
    code="CP305",
    name="stale-optimizer",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    monitored=True,
    explains=(
        "unoptimized-params",
        "unchanged-weights",
        "loss-not-decreasing",
        "cannot-overfit",
        "zero-grad",
    ),
)
def stale_optimizer(evidence: Evidence) -> Iterator[Finding]:
    """The optimizer was built before a layer was replaced: it holds the old one's parameters.

    Why it matters: the new layer is never trained.
    What to do: build the optimizer after the last change of the model, or add_param_group.
    Known exceptions: an optimizer that also trains something else (a loss with parameters, another
    model) while it has all of this model's.
    Source: torch.optim, "If you need to move a model to GPU via .cuda(), please do so before
    constructing optimizers for it".
    """
    forgotten = missing(evidence)
    for optimizer in evidence.optimizers:
        if not optimizer.foreign or not forgotten:
            continue
        for module in topmost({owner(p) for p in forgotten}, evidence.trace):
            yield Finding(
                module=module,
                message=(
                    f"{optimizer.name} holds "
                    f"{format_counted(len(optimizer.foreign), 'parameter')} not in the model (the "
                    f"first of shape {optimizer.foreign[0]}), and not those of "
                    f"{spoken(evidence, module)}"
                ),
                fix=f"build {optimizer.name} after {spoken(evidence, module)} is replaced",
            )
        return
