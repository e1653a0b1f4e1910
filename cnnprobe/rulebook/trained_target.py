"""A loss that pulls two outputs together, both of which are trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, Flow, Loss, describe, operation
from cnnprobe.diagnosis.evidence.bootstraps import find_bootstraps
from cnnprobe.diagnosis.evidence.directions import list_directions
from cnnprobe.diagnosis.evidence.questions import optimised, trainable
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import perceptron, stepping

COMPARING = frozenset(
    {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "cosine_similarity", "mul"}
)
# They grow as the two come together: of a product that is so of normalised vectors.
SIMILARITIES = frozenset({"cosine_similarity", "mul"})
# Their second argument is a distribution, which is not trained as a rule.
SOFT = frozenset(
    {"binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "kl_div"}
)
# Between such a comparison and the loss: what makes one number of it, or turns it round.
SUMMING = frozenset({"mean", "sum", "neg", "mul", "div", "rsub", "to", "view", "add"})
LOGITS = ARRANGING | {"softmax", "log_softmax"}


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
    compares pairs of outputs, a soft target of a cross entropy or a divergence, or the discounted
    next value in a squared error.

    Why it matters: the loss falls where the target comes to the prediction. The least one of two
    outputs is one constant output for everything (collapse).
    What to do: detach() the one that is the target, or compute it under torch.no_grad(); or add a
    loss that keeps the outputs apart.
    Known exceptions: further terms in a loss of two outputs; a target that no optimizer trains;
    several optimizers, of which one may hold the target's weights; the entropy of a prediction, and
    soft targets that are taken both ways round. A residual gradient method means it.
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
    rows = _list_comparisons(flow, losses[0])
    if rows and all(_trains_both(evidence, flow, flow.calls[row]) for row in rows):
        first = describe(flow.calls[rows[0]])
        said = (
            f"{first} is the whole loss, and both of its arguments are"
            if len(rows) == 1
            else f"{len(rows)} calls of {first} are the whole loss, and both sides of each are"
        )
        yield Finding(
            module=None,
            message=(
                f"{said} outputs that are trained: the same output for everything makes it smallest"
            ),
            fix=_advise(evidence),
            source=flow.line(rows[0]),
            kind="" if len(rows) == 1 else "several",
            subject=first,
        )


def find_unread_targets(evidence: Evidence) -> tuple[str, ...]:
    """The arguments of the step that its text never reads."""
    return tuple(
        found.name
        for found in evidence.texts.unread
        if found.kind == "argument" and not found.module and not found.is_present
    )


def _advise(evidence: Evidence) -> str:
    unread = find_unread_targets(evidence)
    if unread:
        return f"compare the output with {unread[0]}, which the step gets and never reads"
    return "detach() the argument that is the target, or compute it under torch.no_grad()"


def _list_comparisons(flow: Flow, loss: Loss) -> list[int]:
    """The rows that a loss is the sum of; none where one of them pushes its two sides apart."""
    found: dict[int, None] = {}
    stack = [(loss.call, loss.sign)] if loss.call is not None else []
    while stack:
        row, sign = stack.pop()
        call = flow.calls[row]
        given = [info for info in call.inputs if info.requires_grad]
        if operation(call) in SUMMING and (len(given) == 1 or operation(call) == "add"):
            ways = {id(info): way for info, way in list_directions(flow, row)}
            for info in given:
                made = flow.producer(info)
                way = ways.get(id(info), 1 if operation(call) in ("to", "view") else 0)
                if made is None or not way:
                    return []
                stack.append((made, sign * way))
            continue
        if sign != (-1 if operation(call) in SIMILARITIES else 1):
            return []
        found[row] = None
    return sorted(found)


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
    first, second = (flow.origin(info, LOGITS) for info in given)
    if first is None or second is None or first == second:
        return False
    if first in flow.before(second) or second in flow.before(first):
        return False
    others = [flow.calls[i].inputs for i in toward if operation(flow.calls[i]) in SOFT]
    before = {second, *flow.before(second)}
    return not any(
        len(pair) > 1 and flow.origin(pair[0], LOGITS) in before and pair[1].requires_grad
        for pair in others
        if pair is not flow.calls[index].inputs
    )


def _trains_both(evidence: Evidence, flow: Flow, call: ModuleCall) -> bool:
    given = call.inputs[:2]
    if operation(call) not in COMPARING or len(given) < 2:
        return False
    if operation(call) == "mul" and not all(_is_normalised(flow, info) for info in given):
        return False
    return all(_is_trained_output(evidence, flow, info) for info in given)


def _is_normalised(flow: Flow, info: TensorInfo) -> bool:
    made = flow.origin(info)
    return made is not None and operation(flow.calls[made]) == "normalize"


def _is_trained_output(evidence: Evidence, flow: Flow, info: TensorInfo) -> bool:
    """Whether a layer of the model made it, but for its length, of weights that the optimizer
    holds.
    """
    made = flow.origin(info, ARRANGING | {"normalize"})
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
