"""A teacher that has learnt nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    ARRANGING,
    PROJECTIONS,
    Evidence,
    Flow,
    Untrained,
    describe,
    operation,
)
from cnnprobe.rulebook.material import perceptron, stepping

# Losses whose target is a distribution, which a network gives by its softmax.
SOFT = frozenset({"kl_div", "cross_entropy", "binary_cross_entropy_with_logits"})
SOFTENING = frozenset({"softmax", "log_softmax", "sigmoid"})


def _loop(trained: bool) -> Mapping[str, Any]:
    import torch
    from torch.nn import functional

    teacher = perceptron(hidden=64).eval().requires_grad_(requires_grad=False)
    if trained:
        with torch.no_grad():
            for p in teacher.parameters():
                p.mul_(1.5)

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        output = model(inputs)
        soft = teacher(inputs).softmax(1)
        distance = functional.kl_div(output.log_softmax(1), soft, reduction="batchmean")
        optimizer.zero_grad()
        (loss_fn(output, targets) + distance).backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The teacher has the weights that torch has drawn."""
    return _loop(trained=False)


def healthy() -> Mapping[str, Any]:
    """It has others."""
    return _loop(trained=True)


@rule(code="CP582", name="untrained-teacher", severity=Severity.WARNING, examples=(sick, healthy))
def untrained_teacher(evidence: Evidence) -> Iterator[Finding]:
    """A fixed network beside the model gives soft labels, and all of its weights are the random
    numbers that torch has drawn for them.

    Why it matters: its labels say nothing of the images; the student learns them all the same.
    What to do: train the teacher first, or load its checkpoint, before the student is trained.
    Known exceptions: a teacher that follows the model; a target that is no distribution, as that of
    random network distillation; weights that are not uniform within torch's own bound.
    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; torch.nn.Linear and Conv2d initialise
    from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    """
    if not evidence.own_loop or evidence.averages or not evidence.steps:
        return
    flow = Flow(evidence.steps[0].trace)
    for network in evidence.code.untrained:
        row = next((i for i in flow.primitives(SOFT) if _is_taught(flow, i, network)), None)
        if row is not None:
            yield Finding(
                module=None,
                message=(
                    f"{network.name} gives the soft labels of {describe(flow.calls[row])}, and all "
                    "of its weights are still the random numbers of torch's initialisation"
                ),
                fix=f"train {network.name}, or load its checkpoint, before it teaches",
                source=flow.line(row),
                subject=network.name,
            )


def _is_taught(flow: Flow, row: int, network: Untrained) -> bool:
    """Whether the target of a loss is a distribution that the network's layers have made."""
    given = flow.calls[row].inputs
    if len(given) < 2 or given[1].requires_grad:
        return False
    made = flow.origin(given[1])
    if made is None or operation(flow.calls[made]) not in SOFTENING:
        return False
    shapes = {
        info.shape
        for i in flow.before(made)
        if operation(flow.calls[i]) in PROJECTIONS and flow.owner(i) is None
        for info in flow.calls[i].inputs[1:]
        if flow.origin(info, ARRANGING) is None and len(info.shape) > 1
    }
    return bool(shapes) and shapes <= network.shapes
