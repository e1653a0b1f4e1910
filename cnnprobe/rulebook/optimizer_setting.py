"""Settings of an optimizer with which no training ends well."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, OptimizerInfo
from cnnprobe.rulebook.material import classifying, perceptron

ENDLESS = 1 - 1e-6  # an average over a million steps
# of the squares: float32 has no number between it and 1
ENDLESS_SQUARES = 1 - 5e-8
HALF = 2.0**-25  # smaller numbers are 0 in float16
LARGE_EPS = 0.1  # torch and Keras have 1e-8 and 1e-7; the root of the squares is about a gradient
MOMENTS = ("Adam", "AdamW", "NAdam", "RAdam")

# option: its bound, what comes of it, the usual value, and the classes that mean this by it
CEILINGS: Mapping[str, tuple[float, str, float, tuple[str, ...]]] = {
    "momentum": (1.0, "each step is the sum of all gradients so far: the weights never settle", 0.9,
        ()),
    "dampening": (1.0, "no gradient after the first goes into the steps", 0.0, ("SGD",)),
    "alpha": (1.0, "the mean square stays 0: each gradient is divided by eps alone", 0.99,
        ("RMSprop",)),
    "betas[0]": (ENDLESS, "a gradient is never forgotten", 0.9, ()),
    "betas[1]": (ENDLESS_SQUARES, "the square of a gradient is never forgotten", 0.999, ()),
}  # fmt: skip


def _training(momentum: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=momentum)
    return classifying(model, optimizer=optimizer)


def sick() -> Mapping[str, Any]:
    """A momentum of 1."""
    return _training(1.0)


def healthy() -> Mapping[str, Any]:
    """One of 0.99."""
    return _training(0.99)


@rule(
    code="CP519",
    name="optimizer-setting",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "divergence",
        "loss-not-decreasing",
        "cannot-overfit",
        "lr-too-high",
        "nan-parameter",
        "update-ratio",
    ),
)
def optimizer_setting(evidence: Evidence) -> Iterator[Finding]:
    """An optimizer has a setting with which its steps do not settle or go the wrong way.

    Why it matters: with a momentum of 1 the weights swing for ever; with a decay of the averages of
    1 the first gradient counts as much as the last; a negative rate or decay makes worse what it
    should make better; an eps of 0 divides 0 by 0.
    What to do: take the usual value.
    Known exceptions: an eps of 0 where every row of every weight gets gradients.
    Source: Polyak 1964 and Sutskever et al. 2013, section 2: momentum in [0, 1); Kingma & Ba 2015,
    algorithm 1: betas in [0, 1), theorem 4.1: betas[0]**2 < sqrt(betas[1]).
    """
    for info in evidence.optimizers:
        for said, option, usual in dict.fromkeys(list_faults(evidence, info)):
            yield Finding(
                module=None,
                message=f"{info.name} ({info.kind}) has {said}",
                fix=f"set {option}={usual:g} in {info.name}",
                kind=option,
                subject=info.name,
            )


def list_faults(evidence: Evidence, info: OptimizerInfo) -> Iterator[tuple[str, str, float]]:
    """What is wrong, the option, and its usual value."""
    for group in info.settings:
        for option, (bound, what, usual, kinds) in CEILINGS.items():
            value = group.get(option, 0.0)
            if value < bound or (kinds and info.kind not in kinds):
                continue
            if option == "dampening" and not group.get("momentum"):
                continue
            yield f"{option}={value:.10g} (must be below {bound:.8g}): {what}", option, usual
        decay, rate = group.get("weight_decay", 0.0), group.get("lr", 0.0)
        if decay < 0:
            said = f"weight_decay={decay:g} (must be at least 0): each step enlarges the weights"
            yield said, "weight_decay", 0.0
        if rate < 0:
            said = f"lr={rate:g} (must be at least 0): each step makes the loss larger"
            yield said, "lr", -rate
        yield from _judge_eps(evidence, info, group.get("eps", 1.0))
        yield from _judge_moments(evidence, info, group)


def _judge_moments(
    evidence: Evidence, info: OptimizerInfo, group: Mapping[str, float]
) -> Iterator[tuple[str, str, float]]:
    """The two averages of Adam and its kin, and what is added to the root of the second."""
    first, second, eps = (group.get(k, 0.0) for k in ("betas[0]", "betas[1]", "eps"))
    if info.kind not in MOMENTS:
        return
    if 0 < second < 1 and first < ENDLESS and first**2 >= math.sqrt(second):
        yield (
            f"betas=({first:g}, {second:g}), in reverse: betas[0]**2 must be below sqrt(betas[1])",
            "betas[0]",
            min(first, second),
        )
    if eps >= LARGE_EPS and _outweighs(evidence, eps):
        yield (
            f"eps={eps:g} (1e-8 is usual): the gradients are smaller than it, and so are the steps",
            "eps",
            1e-8,
        )


def _outweighs(evidence: Evidence, eps: float) -> bool:
    """Whether an eps is larger than the gradients of the first step, each over its weight."""
    found = evidence.steps[0].gradients if evidence.steps else {}
    sizes = [
        gradient.norm / math.sqrt(math.prod(evidence.values[name].shape))
        for name, gradient in found.items()
        if name in evidence.values
    ]
    return bool(sizes) and max(sizes) < eps


def _judge_eps(
    evidence: Evidence, info: OptimizerInfo, eps: float
) -> Iterator[tuple[str, str, float]]:
    """An eps that is 0, or becomes 0 in float16, where gradients are 0 too."""
    halves = {p.fqn for p in evidence.trace.parameters if p.dtype == "float16"}
    in_half = bool(halves & info.parameters)
    if eps > (HALF if in_half else 0.0):
        return
    if any(name in info.parameters for step in evidence.steps for name in step.silent):
        which = f"{eps:g}, which is 0 in float16," if eps else "0"
        yield (
            f"eps={which} (must be above 0): the step of a weight whose gradients are 0 is 0 / 0",
            "eps",
            1e-4 if in_half else 1e-8,
        )
