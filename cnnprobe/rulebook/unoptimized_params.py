"""Parameters that no optimizer holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Companion, Evidence, OptimizerInfo
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

MATRIX = 2  # dims; a weight of more is that of a convolution, and its module a network


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
    """Trainable parameters of the model, its loss, or a head beside it get gradients, but no
    optimizer holds them; or frozen ones that the loop lets train later.

    Why it matters: they stay at their initial values for ever, and their gradients pile up.
    What to do: build the optimizer from model.parameters(), or freeze them with
    requires_grad_(False); optimizer.add_param_group() where they are unfrozen.
    Known exceptions: frozen parameters; parameters of which another optimizer was seen to take
    care; a network in the loss, as that of a perceptual loss or a discriminator.
    Source: torch.optim, "you have to give it an iterable containing the parameters".
    """
    yield from _judge_beside(evidence)
    yield from _judge_thawed(evidence)
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
                f"{say_holder(evidence, module)}, or freeze "
                f"these: {spoken(evidence, module)}.requires_grad_(False)"
            ),
        )


def _judge_thawed(evidence: Evidence) -> Iterator[Finding]:
    """Frozen parameters that the loop is to train later, and that no optimizer has then."""
    frozen = [
        p.fqn
        for p in evidence.trace.parameters
        if p.kind == "parameter" and not p.trainable and p.fqn not in optimised(evidence)
    ]
    for slip in evidence.texts.slips if frozen and evidence.optimizers else ():
        if slip.kind == "thawed":
            yield Finding(
                module=owner(frozen[0]),
                kind="thawed",
                subject=slip.name,
                message=(
                    f"`{slip.text}` lets frozen parameters train later, but {slip.name} was made "
                    f"without them and gets none: {format_counted(len(frozen), 'parameter')} "
                    f"(the first is {frozen[0]}) will not be stepped"
                ),
                fix=f"{slip.name}.add_param_group({{'params': ...}}) behind that line, or give "
                f"{slip.name} all of {variable(evidence, 'model')}.parameters() from the start",
                source=slip.source,
            )
            return


def say_holder(evidence: Evidence, module: str) -> str:
    """Which optimizer should hold what is left out: of several, each has a part of its own."""
    holder = find_holder(evidence, module)
    if holder is None:
        return f"give one of the optimizers {spoken(evidence, module)}.parameters() too"
    if len(evidence.optimizers) == 1:
        return f"give {holder.name} all of {variable(evidence, 'model')}.parameters()"
    return f"give {holder.name} {spoken(evidence, module)}.parameters() too"


def find_holder(evidence: Evidence, module: str) -> OptimizerInfo | None:
    """The optimizer that holds what is made like this module, or like one around it; the only one
    there is; None where several do.
    """
    if len(evidence.optimizers) == 1:
        return evidence.optimizers[0]
    while module:
        holders = _list_holders(evidence, module)
        if len(holders) == 1:
            return holders[0]
        module = owner(module)
    return None


def _list_holders(evidence: Evidence, module: str) -> list[OptimizerInfo]:
    """The optimizers with parameters of modules of the same class."""
    kinds = {m.fqn: m.kind for m in evidence.trace.modules}
    alike = [fqn for fqn, kind in kinds.items() if fqn and kind == kinds.get(module)]
    return [
        optimizer
        for optimizer in evidence.optimizers
        if any(p.startswith(f"{fqn}.") for fqn in alike for p in optimizer.parameters)
    ]


def _judge_beside(evidence: Evidence) -> Iterator[Finding]:
    """A loss with parameters of its own, such as class weights, centres or log-variances; a head
    that the step calls on the model's output.
    """
    own = find_forgotten(evidence)
    names = ", ".join(o.name for o in evidence.optimizers)
    for module in dict.fromkeys(c.module for c in own):
        inside = [c for c in own if c.module == module]
        count = len(inside)
        named = ", ".join(c.name for c in inside[:3]) + (
            f" and {count - 3} more" if count > 3 else ""
        )
        yield Finding(
            module=None,
            kind="loss",
            subject=module,
            message=(
                f"{format_counted(count, 'trainable parameter')} of {module} ({inside[0].kind}) "
                f"{'gets gradients, but is' if count == 1 else 'get gradients, but are'} "
                f"in no optimizer: {named} ({names} has {len(optimised(evidence))} of "
                f"{variable(evidence, 'model')})"
            ),
            fix=(
                f"give {names} {module}.parameters() too: "
                f"[*{variable(evidence, 'model')}.parameters(), *{module}.parameters()]"
            ),
        )


def find_forgotten(evidence: Evidence) -> list[Companion]:
    """Parameters beside the model that no optimizer holds and no step changed, in train mode and
    with gradients, where no network is around them.
    """
    if not evidence.optimizers or not optimised(evidence) or not evidence.steps:
        return []
    beside = evidence.steps[-1].beside
    networks = {_find_part(c) for c in beside if len(c.shape) > MATRIX}
    return [
        c
        for c in beside
        if c.graded and c.training and not c.moved and not c.optimizer
        if _find_part(c) not in networks
    ]


def _find_part(companion: Companion) -> tuple[str, str]:
    """The child of the outermost module that a parameter lies in."""
    first, dot, _ = companion.name.partition(".")
    return companion.module, first if dot else ""


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
