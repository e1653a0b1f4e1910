"""A weight decay that makes weights larger."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, Loss, Step, argument, operation
from cnnprobe.diagnosis.evidence.directions import list_directions
from cnnprobe.diagnosis.evidence.questions import trainable
from cnnprobe.records.trace import ModuleCall
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping

MOST = 1.0  # the largest multiple of a weight that is taken for a decay
LIKE = 0.01  # by how much the multiples of two weights may differ
SIZES = frozenset({"abs", "norm", "linalg.norm", "linalg.vector_norm", "linalg.matrix_norm"})


def _loop(sign: float) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        for p in model.parameters():
            p.grad.add_(p.detach(), alpha=sign * 0.02)
        optimizer.step()
        return loss

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The decay is subtracted from the gradient."""
    return _loop(-1.0)


def healthy() -> Mapping[str, Any]:
    """It is added."""
    return _loop(1.0)


@rule(
    code="CP580",
    name="decay-sign",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("divergence", "loss-not-decreasing", "update-ratio", "negative-loss", "lr-too-high"),
)
def decay_sign(evidence: Evidence) -> Iterator[Finding]:
    """A weight decay written by hand has the wrong sign: a multiple of the weight is subtracted
    from its gradient, or the size of the weights is subtracted from the loss.

    Why it matters: each step makes the weights larger, and the more the larger they are.
    What to do: add it: grad += decay * weight, loss + decay * weight.square().sum(); or give the
    optimizer weight_decay.
    Known exceptions: vectors such as biases; multiples of the weight above 1; multiples that differ
    from layer to layer.
    Source: Krogh & Hertz 1991, "A Simple Weight Decay Can Improve Generalization", equation 1.
    """
    if not evidence.steps or not evidence.own_loop:
        return
    step = evidence.steps[0]
    flow = Flow(step.trace)
    yield from _judge_gradients(flow, step)
    for loss in step.losses:
        yield from _judge_loss(evidence, flow, loss)


def _judge_gradients(flow: Flow, step: Step) -> Iterator[Finding]:
    grown = {name: -factor for name, factor in step.decayed.items() if -MOST <= factor < 0}
    if not grown or len(grown) < len(step.decayed):
        return
    low, high = min(grown.values()), max(grown.values())
    if high - low > LIKE * high:
        return
    first = next(iter(grown))
    yield Finding(
        module=first.rpartition(".")[0],
        message=(
            f"{low:.3g} times the weight is subtracted from the gradient of "
            f"{format_counted(len(grown), 'weight')} behind the backward (the first is {first}): "
            "the step makes weights larger, as a negative weight decay"
        ),
        fix="add it: grad + decay * weight",
        source=_find_line(flow, step, first),
        kind="gradient",
        subject=first,
    )


def _find_line(flow: Flow, step: Step, weight: str) -> str:
    """The last line outside of the loss that reads the weight."""
    ends = [loss.call for loss in step.losses if loss.call is not None]
    before = set(ends).union(*(flow.before(end) for end in ends)) if ends else set[int]()
    rows = [
        i
        for i in flow.primitives()
        if i not in before
        and flow.owner(i) is None
        and any(t.source == weight for t in flow.calls[i].inputs)
    ]
    return flow.line(rows[-1]) if rows else ""


def _judge_loss(evidence: Evidence, flow: Flow, loss: Loss) -> Iterator[Finding]:
    held = {name for name, p in trainable(evidence).items() if len(p.shape) > 1} & loss.trained
    rewarded: dict[str, tuple[int, int]] = {}  # weight -> the row of its size, of the difference
    seen = set[tuple[int, int]]()
    stack = [(loss.call, loss.sign, loss.call)] if loss.call is not None and loss.sign else []
    while stack:
        row, sign, turned = stack.pop()
        if (row, sign) in seen:
            continue
        seen.add((row, sign))
        call = flow.calls[row]
        data = flow.outer(call.inputs[0]) if call.inputs else None
        if _is_size(flow, call) and data is not None:
            if data.source in held and sign < 0:
                rewarded.setdefault(str(data.source), (row, turned))
            continue
        for info, way in list_directions(flow, row):
            made = flow.producer(info)
            if made is not None and info.requires_grad:
                stack.append((made, sign * way, row if way < 0 else turned))
    if rewarded:
        first, (row, turned) = next(iter(sorted(rewarded.items(), key=lambda each: each[1])))
        yield Finding(
            module=first.rpartition(".")[0],
            message=(
                f"the loss falls as {format_counted(len(rewarded), 'weight')} "
                f"{'grows' if len(rewarded) == 1 else 'grow'} (the first is {first}): their size "
                "is subtracted from it"
            ),
            fix="add the penalty to the loss: loss + decay * weight.square().sum()",
            source=flow.line(turned),
            kind="loss",
            subject=first,
        )


def _is_size(flow: Flow, call: ModuleCall) -> bool:
    """Whether a row gives a number that grows with the size of what it reads."""
    kind = operation(call)
    if kind == "mul" and len(call.inputs) == 2:
        one, other = (flow.outer(info).source for info in call.inputs)
        return one == other
    if kind == "pow":
        power = argument(call, "exponent", 2)
        return isinstance(power, int | float) and power > 0 and power % 2 == 0
    return kind in SIZES
