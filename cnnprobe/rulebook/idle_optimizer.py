"""One of several optimizers never steps."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Event, Evidence, Step
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
    explains=("loss-not-decreasing", "cannot-overfit", "no-zero-grad"),
)
def idle_optimizer(evidence: Evidence) -> Iterator[Finding]:
    """An optimizer holds weights that get gradients, but only other optimizers step; or it steps
    behind a backward of its own, but its weights do not require grad while that loss is computed.

    Why it matters: the weights that it holds are never trained.
    What to do: call its step() after loss.backward() too; let its weights require grad before the
    forward of its loss.
    Known exceptions: a loop where no optimizer steps at all is `step-missing`; weights that change
    all the same, by hand; gradients that are gathered over many batches; a loop that turns
    requires_grad on in some of its batches; layers that the steps do not call.
    Source: torch.optim, "Taking an optimization step".
    """
    steps = [s for s in evidence.steps if s.changes and any(e.kind == "step" for e in s.events)]
    if len(steps) < 2:
        return
    yield from _judge_beside(evidence)
    yield from _judge_frozen(evidence)
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


def _judge_beside(evidence: Evidence) -> Iterator[Finding]:
    """An optimizer of another module than the model: a loss of its own is computed for it in every
    step, its gradients are cleared, and it never steps.
    """
    steps = [step for step in evidence.steps if step.losses]
    events = [event for step in steps for event in step.events]
    cleared = Counter(e.subject for e in events if e.kind == "zero_grad")
    for optimizer in evidence.optimizers if steps else ():
        held = [c for c in steps[-1].beside if c.optimizer == optimizer.name]
        idle = [c for c in held if c.graded and not c.moved]
        names = dict.fromkeys(c.module for c in idle)
        if (
            not idle
            or len(idle) < len([c for c in held if c.graded])
            or not is_idle(evidence, optimizer)
            or any(e.kind == "scale" for e in events)
            or not all(any(c.alone for c in s.beside if c.module in names) for s in steps)
            or not any(cleared[name] > 1 for name in (optimizer.name, *names))
        ):
            continue
        yield Finding(
            module=None,
            kind="beside",
            subject=optimizer.name,
            message=(
                f"{' and '.join(names)} has a loss of its own and gradients in "
                f"{format_counted(len(steps), 'step')}, but {optimizer.name}, which holds its "
                f"{format_counted(len(idle), 'parameter')}, is only cleared: it made 0 steps"
            ),
            fix=f"call {optimizer.name}.step() after the backward of its loss",
        )


def _judge_frozen(evidence: Evidence) -> Iterator[Finding]:
    """An optimizer that steps beside others, each time right behind a backward, and whose
    parameters are used and never require grad.
    """
    frozen = {p.fqn for p in evidence.trace.parameters if p.kind == "parameter" and not p.trainable}
    frozen -= {name for step in evidence.steps for name in step.gradients}
    used = {call.fqn for call in evidence.trace.calls}
    for optimizer in evidence.optimizers:
        own = [_find_own(step, optimizer.name) for step in evidence.steps]
        places = {owner(name) for name in optimizer.parameters}
        if (
            not optimizer.parameters
            or optimizer.foreign
            or not optimizer.parameters <= frozen
            or not places <= used
            or not all(own)
            or any(event.effective for events in own for event in events)
        ):
            continue
        module = topmost(places, evidence.trace)[0]
        count = sum(map(len, own))
        yield Finding(
            module=module,
            kind="frozen",
            subject=optimizer.name,
            message=(
                f"{optimizer.name} made {format_counted(count, 'step')}, each behind a backward, "
                f"but its {format_counted(len(optimizer.parameters), 'parameter')} of "
                f"{spoken(evidence, module)} never had a gradient: requires_grad is False while "
                "the loss is computed"
            ),
            fix=(
                f"call {spoken(evidence, module)}.requires_grad_(True) in the loop, before the "
                f"forward of the loss that {optimizer.name} steps with"
            ),
        )


def _find_own(step: Step, optimizer: str) -> list[Event]:
    """The steps of an optimizer that come right behind a backward; none where other steps of it
    come behind something else, or no other optimizer steps with gradients.
    """
    events = [e for e in step.events if e.kind in ("backward", "step")]
    own = [i for i, e in enumerate(events) if e.kind == "step" and e.subject == optimizer]
    others = [e for e in events if e.kind == "step" and e.subject != optimizer and e.effective]
    if not others or any(i == 0 or events[i - 1].kind != "backward" for i in own):
        return []
    return [events[i] for i in own]
