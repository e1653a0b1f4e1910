"""A loss that pulls two outputs together, both of which are trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import optimised, trainable
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import perceptron, stepping

COMPARING = frozenset(
    {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "cosine_similarity"}
)
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
    """The whole loss compares two outputs of the model with each other, and trains both.

    Why it matters: the least loss is one constant output for everything (collapse).
    What to do: detach() the one that is the target, or compute it under torch.no_grad(); or add a
    loss that keeps the outputs apart.
    Known exceptions: further terms in the loss; a target that no optimizer trains; several
    optimizers, of which one may hold the target's weights.
    Source: Chen & He 2021, "Exploring Simple Siamese Representation Learning", arXiv:2011.10566,
    section 4.1.
    """
    if not evidence.steps or len(evidence.optimizers) != 1:
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
