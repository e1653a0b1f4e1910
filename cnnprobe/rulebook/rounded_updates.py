"""Steps that the precision of the weights takes away."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import trainable
from cnnprobe.rulebook.material import classifying, images, perceptron

KEPT = 0.8  # of a step's length: float32 keeps all of it
LEAST = 0.8  # of the weights, by number
HALF = ("bfloat16", "float16")


def _training(whole: bool) -> Mapping[str, Any]:
    import torch

    model, inputs = perceptron(), images()
    if not whole:
        model, inputs = model.bfloat16(), inputs.bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-3)
    return classifying(model, inputs=inputs, optimizer=optimizer)


def sick() -> Mapping[str, Any]:
    """Weights in bfloat16 and steps of a thousandth."""
    return _training(False)


def healthy() -> Mapping[str, Any]:
    """The same in float32."""
    return _training(True)


@rule(
    code="CP520",
    name="rounded-updates",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit", "lr-too-low"),
)
def rounded_updates(evidence: Evidence) -> Iterator[Finding]:
    """Weights in bfloat16 or float16 lose a part of the steps that plain SGD makes.

    Why it matters: bfloat16 has 8 bits: what is less than 1/256 of a weight is rounded away, so
    that training stands still where float32 goes on.
    What to do: keep the weights in float32, and compute under torch.autocast.
    Known exceptions: optimizers with a momentum or a state, whose step is not known from the
    gradient; weights that do not move at all are `unchanged-weights` or `lr-too-low`.
    Source: Micikevicius et al. 2018, "Mixed Precision Training", arXiv:1710.03740, section 3.1.
    """
    dtypes = {name: parameter.dtype for name, parameter in trainable(evidence).items()}
    for info in evidence.optimizers:
        plain = info.kind == "SGD" and not any(g.get("momentum") for g in info.settings)
        names = [n for n in info.parameters if dtypes.get(n) in HALF]
        steps = [s for s in evidence.steps if s.stepped and s.gradients]
        if not plain or not names or len(set(info.rates)) != 1 or not steps:
            continue
        kept = [
            step.stepped[n] / (info.rates[0] * step.gradients[n].norm)
            for step in steps[:1]
            for n in names
            if n in step.stepped and n in step.gradients and step.gradients[n].norm > 0
        ]
        lost = [share for share in kept if share < KEPT]
        if info.rates[0] > 0 and kept and max(kept) > 0 and len(lost) >= LEAST * len(kept):
            yield Finding(
                module=None,
                message=(
                    f"{len(lost)} of {len(kept)} weights in {dtypes[names[0]]} get less than "
                    f"{KEPT:.0%} of the length of their step: the rest is rounded away"
                ),
                fix="keep the weights in float32, and run the forward under torch.autocast",
            )
