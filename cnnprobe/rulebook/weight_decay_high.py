"""A weight decay that outweighs the loss."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, OptimizerInfo, Step
from cnnprobe.rulebook.material import classifying, perceptron

HIGH = 0.1  # as part of the gradient; 1e-4 to 5e-4 are usual, 1e-2 is the most that papers search
# the same where a step divides by the size of the gradient, so that the decay alone makes it
HIGH_ADAPTIVE = 0.02
SHRINKING = 0.01  # of a weight's size in one step, decoupled: AdamW's default shrinks by 1e-5


def _training(decay: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    return classifying(
        model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=decay)
    )


def sick() -> Mapping[str, Any]:
    """0.9, which was meant as momentum."""
    return _training(0.9)


def healthy() -> Mapping[str, Any]:
    """1e-2."""
    return _training(1e-2)


@rule(
    code="CP512",
    name="weight-decay-high",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "loss-not-decreasing",
        "cannot-overfit",
        "vanishing-gradient",
        "constant-output",
        "ignored-input",
    ),
)
def weight_decay_high(evidence: Evidence) -> Iterator[Finding]:
    """The weight decay pulls harder at the weights than the loss does.

    Why it matters: the weights go to zero, whatever the data say.
    What to do: 1e-4 to 5e-4 for SGD and Adam, 0.01 to 0.1 for AdamW; momentum is another argument.
    Known exceptions: none above these bounds; below 0.1 (0.02 for Adam and its kin, whose steps
    divide by the size of the gradient) a decay is not judged.
    Source: Loshchilov, Hutter 2019, arXiv:1711.05101, figure 1; He et al. 2016, arXiv:1512.03385,
    section 3.4.
    """
    step = next((s for s in evidence.steps if s.gradients), None)
    if step is None:
        return
    for optimizer in evidence.optimizers:
        shrinking = optimizer.weight_decay * max(optimizer.rates, default=0.0)
        if optimizer.kind.startswith(("LBFGS", "Muon")):
            continue
        if optimizer.decoupled and shrinking > SHRINKING:
            what = (
                f"each step takes away {shrinking:.1%} of every weight (more than {SHRINKING:.0%})"
            )
        elif (
            not optimizer.decoupled
            and optimizer.weight_decay >= _choose_bound(optimizer)
            and (pull := _pull(evidence, step, optimizer)) > 1
        ):
            what = (
                f"it is {pull:.2g} times the gradient of the loss in the median of all weights "
                "(more than 1)"
            )
        else:
            continue
        yield Finding(
            module=None,
            message=(
                f"{optimizer.name} ({optimizer.kind}) has a weight_decay of "
                f"{optimizer.weight_decay:g}: {what}"
            ),
            fix=f"weight_decay={0.01 if optimizer.decoupled else 5e-4:g}"
            + (
                "; if momentum was meant, write momentum=" + f"{optimizer.weight_decay:g}"
                if 0.5 <= optimizer.weight_decay < 1
                else ""
            ),
        )


def _choose_bound(optimizer: OptimizerInfo) -> float:
    is_adaptive = optimizer.kind.startswith(("Ada", "NAdam", "RAdam", "RMSprop"))
    return HIGH_ADAPTIVE if is_adaptive else HIGH


def _pull(evidence: Evidence, step: Step, optimizer: OptimizerInfo) -> float:
    """The decay over the gradient, of the weights in a step."""
    ratios = [
        optimizer.weight_decay * evidence.values[name].norm / gradient.norm
        for name, gradient in step.gradients.items()
        if name in optimizer.parameters
        and name in evidence.values
        and len(evidence.values[name].shape) > 1
        and gradient.norm > 0
    ]
    return statistics.median(ratios) if ratios else 0.0
