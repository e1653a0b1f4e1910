"""A loss that pulls two outputs together, both of which are trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.bootstraps import find_bootstraps
from cnnprobe.diagnosis.evidence.questions import optimised, trainable
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import perceptron, stepping

COMPARING = frozenset(
    {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "cosine_similarity"}
)
# Their second argument is a distribution, which is not trained as a rule.
SOFT = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy"})
# Between such a comparison and the loss: what makes one number of it, or turns it round.
SUMMING = frozenset({"mean", "sum", "neg", "mul", "div", "rsub", "to", "view"})


def _loop(detached: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, _targets: Any, optimizer: Any, _loss_fn: Any) -> None:
        from torch.nn import functional

        student, teacher = model(inputs), model(inputs.flip(-1))
        optimizer.zero_grad()
        loss: Any = functional.mse_loss(student, teacher.detach() if detached else teacher)
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """Two views of an image are pulled together, and nothing else is asked for."""
    return _loop(False)


def healthy() -> Mapping[str, Any]:
    """One of them is a target without a gradient."""
    return _loop(True)


@rule(code="CP425", name="trained-target", severity=Severity.WARNING, examples=(sick, healthy))
def trained_target(evidence: Evidence) -> Iterator[Finding]:
    """The target of a loss is computed by the model itself, and is trained with it: the whole loss
    compares two outputs, a soft target of a cross entropy, or the discounted next value in a
    squared error.

    Why it matters: the loss falls where the target comes to the prediction. The least one of two
    outputs is one constant output for everything (collapse).
    What to do: detach() the one that is the target, or compute it under torch.no_grad(); or add a
    loss that keeps the outputs apart.
    Known exceptions: further terms in a loss of two outputs; a target that no optimizer trains;
    several optimizers, of which one may hold the target's weights; the entropy of a prediction, and
    losses that are taken both ways round. A residual gradient method means it: ignore it there.
    Source: Chen & He 2021, "Exploring Simple Siamese Representation Learning", arXiv:2011.10566,
    section 4.1.
    """
    if not evidence.steps:
        return
    yield from _find_soft_targets(evidence)
    if len(evidence.optimizers) != 1:
        return
    losses = evidence.steps[0].losses
    if len(losses) != 1 or losses[0].call is None:
        return
    flow = Flow(evidence.steps[0].trace)
    row: int | None = losses[0].call
    while row is not None and operation(flow.calls[row]) in SUMMING:
        given = flow.calls[row].inputs
        if sum(info.requires_grad for info in given) != 1:
            return
        row = flow.producer(next(info for info in given if info.requires_grad))
    if row is not None and _trains_both(evidence, flow, flow.calls[row]):
        yield Finding(
            module=None,
            message=(
                f"{describe(flow.calls[row])} is the whole loss, and both of its arguments are "
                "outputs that are trained: the same output for everything makes it 0"
            ),
            fix="detach() the argument that is the target, or compute it under torch.no_grad()",
            source=flow.line(row),
            subject=describe(flow.calls[row]),
        )


def _find_soft_targets(evidence: Evidence) -> Iterator[Finding]:
    """Targets with a gradient, of terms that are not symmetric."""
    flow = Flow(evidence.steps[0].trace)
    ends = [loss.call for loss in evidence.steps[0].losses if loss.call is not None]
    toward = set(ends).union(*(flow.before(end) for end in ends)) if ends else set()
    for i in sorted(toward):
        if flow.is_primitive[i] and _has_soft_target(evidence, flow, i, toward):
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"the target of {describe(flow.calls[i])} is computed from weights that are "
                    "trained, and has a gradient: the loss also pulls the target to the prediction"
                ),
                fix="detach() the target, or compute it under torch.no_grad()",
                source=flow.line(i),
                kind="soft-target",
                subject=describe(flow.calls[i]),
            )
    for i in find_bootstraps(flow, toward):
        yield Finding(
            module=flow.owner(i),
            message=(
                f"{describe(flow.calls[i])} squares the error between a value and a discounted "
                "value of the same layer, and both have a gradient: the next value is pulled to "
                "this one"
            ),
            fix="detach() the target: (reward + gamma * next_value).detach() - value",
            source=flow.line(i),
            kind="bootstrapped",
            subject=describe(flow.calls[i]),
        )


def _has_soft_target(evidence: Evidence, flow: Flow, index: int, toward: set[int]) -> bool:
    """Whether a cross entropy has a target with a gradient that is no function of its prediction,
    and that the loss has in this place alone.
    """
    given = flow.calls[index].inputs[:2]
    if operation(flow.calls[index]) not in SOFT or not all(info.requires_grad for info in given):
        return False
    if len(given) < 2 or not list_weights(evidence, flow, given[1]):
        return False
    first, second = (flow.origin(info) for info in given)
    if first is None or second is None or first == second:
        return False
    if first in flow.before(second) or second in flow.before(first):
        return False
    others = [flow.calls[i].inputs for i in toward if operation(flow.calls[i]) in SOFT]
    before = {second, *flow.before(second)}
    return not any(
        len(pair) > 1 and flow.origin(pair[0]) in before and pair[1].requires_grad
        for pair in others
        if pair is not flow.calls[index].inputs
    )


def _trains_both(evidence: Evidence, flow: Flow, call: ModuleCall) -> bool:
    if operation(call) not in COMPARING or len(call.inputs) < 2:
        return False
    return all(_is_trained_output(evidence, flow, info) for info in call.inputs[:2])


def _is_trained_output(evidence: Evidence, flow: Flow, info: TensorInfo) -> bool:
    """Whether a layer of the model made it as it is, of weights that the optimizer holds."""
    made = flow.origin(info)
    if not info.requires_grad or made is None or flow.owner(made) is None:
        return False
    return bool(list_weights(evidence, flow, info))


def list_weights(evidence: Evidence, flow: Flow, info: TensorInfo) -> set[str]:
    """The weights that the optimizer holds and that a value is made of."""
    made = flow.producer(info)
    rows = flow.before(made) | {made} if made is not None else set()
    read = {t.source for i in rows for t in flow.calls[i].inputs}
    owners = {flow.calls[i].fqn for i in rows}
    held = set(trainable(evidence)) & optimised(evidence)
    return {name for name in held if name in read or name.rpartition(".")[0] in owners}
