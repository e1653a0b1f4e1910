"""In which direction a loss moves the scores of a network that judges others."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cnnprobe.diagnosis.evidence.evidence import Loss
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import FORWARDING, PROJECTIONS, operation
from cnnprobe.diagnosis.evidence.questions import input_stats, stat
from cnnprobe.records.trace import ModuleCall, TensorInfo

SCORES = ("binary_cross_entropy_with_logits", "binary_cross_entropy", "mse_loss")
# What grows with what it is given.
RISING = FORWARDING | {
    "mean", "sum", "relu", "leaky_relu", "softplus", "log", "log1p", "exp", "sigmoid", "logsigmoid",
    "tanh", "clamp", "stack", "cat", "add", "avg_pool",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A score that a loss lowers or raises."""

    judge: str  # the layer that gives the score
    call: int  # the row of that layer
    row: int  # outside of the judge, the row that the score goes into first
    direction: int  # of the score, where the loss falls: 1 or -1
    makers: frozenset[object]  # the layers that the judged sample was computed by
    trained: frozenset[object]  # of these, the ones with a graph
    path: frozenset[str]  # the operations between the score and the loss


def list_pushes(flow: Flow, loss: Loss) -> Iterator[Push]:
    """The scores in a loss of which it is certain in which direction they go."""
    seen = set[tuple[int, int, int]]()
    stack = [(i, loss.sign, i, frozenset[str]()) for i in (loss.call,) if i is not None]
    while stack:
        row, sign, outside, path = stack.pop()
        if not sign or (row, sign, outside) in seen:
            continue
        seen.add((row, sign, outside))
        judge = flow.owner(row)
        if judge and operation(flow.calls[row]) in PROJECTIONS:
            yield replace(_describe(flow, row, judge, outside, -sign), path=path)
            continue
        path |= {operation(flow.calls[row])}
        for info, turned in list_directions(flow, row):
            made = flow.producer(info)
            if made is not None and info.requires_grad:
                edge = row if flow.owner(row) is None else outside
                stack.append((made, sign * turned, edge, path))


def list_directions(flow: Flow, row: int) -> Iterator[tuple[TensorInfo, int]]:
    """The inputs that a row rises with (1) or falls with (-1); none where that is not certain."""
    call = flow.calls[row]
    kind = operation(call)
    if kind in SCORES:
        target = input_stats(flow, call.inputs[1]) if len(call.inputs) > 1 else None
        low, high = stat(target, "min"), stat(target, "max")
        if low == high:
            yield call.inputs[0], -1 if low >= 0.5 else 1
    elif kind in RISING:
        yield from ((info, 1) for info in call.inputs)
    elif kind == "neg":
        yield call.inputs[0], -1
    elif kind in ("sub", "rsub"):
        signs = (1, -1) if kind == "sub" else (-1, 1)
        yield from zip(call.inputs, signs, strict=False)
    elif kind in ("mul", "div"):
        sign = _read_factor(call)
        if sign:
            yield call.inputs[0], sign


def _read_factor(call: ModuleCall) -> int:
    """The sign of the number that a row multiplies or divides by; 0 where there is none."""
    numbers = [v for v in call.arguments.values() if isinstance(v, int | float)]
    if len(call.inputs) != 1 or len(numbers) != 1 or not numbers[0]:
        return 0
    return 1 if numbers[0] > 0 else -1


def _describe(flow: Flow, row: int, judge: str, outside: int, direction: int) -> Push:
    whole = row
    while (parent := flow.calls[whole].parent) is not None and flow.calls[parent].fqn is not None:
        whole = parent
    before = [
        i
        for i in flow.before(row)
        if not _is_within(flow, i, whole)
        and flow.is_primitive[i]
        and operation(flow.calls[i]) in PROJECTIONS
    ]
    graphs = [i for i in before if any(o.requires_grad for o in flow.calls[i].outputs)]
    return Push(
        judge=judge,
        call=row,
        row=outside,
        direction=direction,
        makers=frozenset(_name_layer(flow, i) for i in before),
        trained=frozenset(_name_layer(flow, i) for i in graphs),
        path=frozenset(),
    )


def _name_layer(flow: Flow, row: int) -> object:
    """A layer by its name; of a module beside the model, by its operation and its weights."""
    call = flow.calls[row]
    if call.fqn is not None:
        return call.fqn
    outside = (info.shape for info in call.inputs[1:] if flow.producer(info) is None)
    return (call.kind, *outside)


def _is_within(flow: Flow, row: int | None, whole: int) -> bool:
    while row is not None and row != whole:
        row = flow.calls[row].parent
    return row is not None
