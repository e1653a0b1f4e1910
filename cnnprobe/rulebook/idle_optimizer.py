"""One of several optimizers never steps."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import is_idle, owner, spoken, topmost, trainable
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(both: bool) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    slow = torch.optim.SGD(model[1].parameters(), lr=0.01)

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        slow.zero_grad()
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
        if both:
            slow.step()

    return stepping(model, loop, optimizer=torch.optim.SGD(model[3].parameters(), lr=0.05))


def sick() -> Mapping[str, Any]:
    """The optimizer of the first layer is only cleared."""
    return _loop(both=False)


def healthy() -> Mapping[str, Any]:
    """Both step."""
    return _loop(both=True)


@rule(
    code="CP513",
    name="idle-optimizer",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="unchanged-weights",
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def idle_optimizer(evidence: Evidence) -> Iterator[Finding]:
    """An optimizer holds weights that get gradients, but only other optimizers step.

    Why it matters: the weights that it holds are never trained.
    What to do: call its step() after loss.backward() too.
    Known exceptions: a loop where no optimizer steps at all is `step-missing`; weights that change
    all the same, by hand.
    Source: torch.optim, "Taking an optimization step".
    """
    steps = [s for s in evidence.steps if s.changes and any(e.kind == "step" for e in s.events)]
    if len(steps) < 2:
        return
    for optimizer in evidence.optimizers:
        held = [
            name
            for name, parameter in trainable(evidence).items()
            if name in optimizer.parameters
            and len(parameter.shape) > 1
            and all(s.changes.get(name) == 0 for s in steps)
            and all(name in s.gradients and s.gradients[name].norm > 0 for s in steps)
        ]
        if not is_idle(evidence, optimizer):
            continue
        for module in topmost({owner(name) for name in held}, evidence.trace)[:3]:
            yield Finding(
                module=module,
                message=(
                    f"the weights of {spoken(evidence, module)} have gradients, but "
                    f"{optimizer.name}, which holds them, made 0 of "
                    f"{format_counted(len(steps), 'optimizer step')}"
                ),
                fix=f"call {optimizer.name}.step() after loss.backward()",
            )
