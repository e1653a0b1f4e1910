"""A softmax over the wrong axis."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    FORWARDING,
    Evidence,
    Flow,
    argument,
    describe,
    operation,
    option,
)
from cnnprobe.diagnosis.evidence.questions import batch_size, loss_calls, spoken
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying, perceptron


def sick() -> Mapping[str, Any]:
    """Over the batch."""
    from torch import nn

    return classifying(perceptron(end=(nn.LogSoftmax(dim=0),)), loss_fn=nn.NLLLoss())


def healthy() -> Mapping[str, Any]:
    """Over the classes, counted from the end."""
    from torch import nn

    return classifying(perceptron(end=(nn.LogSoftmax(dim=-1),)), loss_fn=nn.NLLLoss())


@rule(
    code="CP405",
    name="softmax-dim",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "batch-leak",
        "loss-not-decreasing",
        "cannot-overfit",
        "loss-at-init",
        "softmax-before-ce",
        "probs-into-nll",
        "constant-output",
    ),
)
def softmax_dim(evidence: Evidence) -> Iterator[Finding]:
    """A softmax runs over the batch, or over another axis than that of the classes, or of the keys in attention.

    Why it matters: the samples of a batch compete with each other; a sample's prediction depends on which others it came with.
    What to do: set dim=1, or dim=-1 for (N, C).
    Known exceptions: attention over a sequence in dimension 0 is right where the batch is elsewhere; it is reported only where samples were seen to influence each other. So are losses over a matrix of similarities, and soft assignments (NetVLAD), whose scores are no product of two activations.
    Source: torch.nn.Softmax, "dim: a dimension along which Softmax will be computed (so every slice along dim will sum to 1)".
    """
    flow = Flow(evidence.trace)
    heads = {loss.origin: loss.operation for loss in loss_calls(evidence)}
    for root in flow.roots():
        for info in flow.calls[root].outputs:
            heads.setdefault(flow.origin(info, FORWARDING), "")
    n = batch_size(evidence)
    leaking = evidence.probes.leak[0] if evidence.probes.leak is not None else None
    for i in flow.primitives({"softmax", "log_softmax"}):
        call = flow.calls[i]
        shape = call.inputs[0].shape if call.inputs else ()
        axis = _axis(evidence, call, len(shape))
        if axis is None or len(shape) < 2:
            continue
        judged = i in heads or _in_loss(flow, i)
        over_batch = (
            axis == 0
            and n is not None
            and n > 1
            and shape[0] == n
            and (judged or (evidence.probes.leak is not None and leaking == flow.owner(i)))
        )
        wrong_class = axis != 1 and (
            heads.get(i) == "nll_loss" or (judged and _is_map_of_classes(evidence, shape))
        )
        summed = None if over_batch or wrong_class else _summed_over(flow, i, axis)
        if summed is not None:
            yield Finding(
                module=flow.owner(i),
                severity=Severity.WARNING,
                message=f"{describe(call)} runs over dimension {axis} of the scores {shape}, but the product behind it sums over dimension {summed}: the weights of a sum do not add up to 1",
                fix=f"set dim={summed - len(shape)} in {spoken(evidence, flow.owner(i))}: attention normalises over the keys",
                source=call.source,
            )
        if over_batch or wrong_class:
            place = "the loss" if flow.owner(i) is None else spoken(evidence, flow.owner(i))
            yield Finding(
                module=flow.owner(i),
                message=f"{describe(call)} runs over dimension {axis} of {shape}, which is {'the batch' if axis == 0 else 'not that of the classes, 1'}",
                fix=f"set dim=1 in {place}",
                source=call.source,
            )


def _in_loss(flow: Flow, index: int) -> bool:
    """Whether the loss itself takes this softmax of what the model gave; a square matrix may hold similarities, which go both ways."""
    given = flow.data(index)
    if (
        flow.owner(index) is not None
        or given is None
        or (len(given.shape) == 2 and given.shape[0] == given.shape[1])
    ):
        return False
    return flow.owner(flow.origin(given, FORWARDING | {"mul", "div"})) is not None


def _is_map_of_classes(evidence: Evidence, shape: tuple[int, ...]) -> bool:
    """Whether a target holds one class for each position: (N, H, W) beside (N, C, H, W)."""
    wanted, last = (shape[0], *shape[2:]), shape[:-1]
    return len(shape) > 2 and any(
        t.shape == wanted and t.shape != last and t.dtype.startswith(("int", "uint"))
        for t in evidence.targets
    )


SCORING = FORWARDING | {
    "mul",
    "div",
    "add",
    "sub",
    "masked_fill",
}  # what is done to scores before the softmax
HANDING_ON = frozenset({"dropout", "contiguous", "to", "float", "type_as", "clone", "identity"})


def _summed_over(flow: Flow, index: int, axis: int) -> int | None:
    """The dimension that a product sums over, where it is another than that of the softmax before it; None where that is right or not known.

    Only attention is judged: the scores are a product of two activations, and the weights go straight into the next product.
    """
    given = flow.data(index)
    scores = None if given is None else flow.origin(given, SCORING)
    if (
        given is None
        or scores is None
        or operation(flow.calls[scores]) != "matmul"
        or not _between_activations(flow.calls[scores])
    ):
        return None
    rank, at = len(given.shape), index
    order = list(range(rank))  # which dimension of the softmax each dimension of the weights is
    while len(readers := flow.readers.get(at, [])) == 1:
        before, at = at, readers[0]
        call, kind = flow.calls[at], operation(flow.calls[at])
        if (
            kind == "matmul"
            and len(call.inputs) == 2
            and all(len(t.shape) == rank for t in call.inputs)
        ):
            summed = order[rank - 1 if call.inputs[0].source == before else rank - 2]
            return summed if summed != axis and axis > 0 else None
        moved = _rearranged(call, order)
        if moved is None:
            return None
        order = moved
    return None


def _rearranged(call: ModuleCall, order: list[int]) -> list[int] | None:
    """The dimensions behind a row that exchanges them or leaves them; None behind any other."""
    rank, kind = len(order), operation(call)
    if kind == "permute":
        places = argument(call, "dims")
        known = [n for n in places if isinstance(n, int)] if isinstance(places, tuple) else []
        return [order[place] for place in known] if len(known) == rank else None
    if kind == "transpose":
        a, b = (argument(call, f"dim{k}", k - 2) for k in (0, 1))
        if not isinstance(a, int) or not isinstance(b, int):
            return None
        swapped = list(order)
        swapped[a], swapped[b] = order[b], order[a]
        return swapped
    return order if kind in HANDING_ON else None


def _between_activations(call: ModuleCall) -> bool:
    return len(call.inputs) == 2 and all(isinstance(t.source, int) for t in call.inputs)


def _axis(evidence: Evidence, call: ModuleCall, rank: int) -> int | None:
    if call.kind == "Softmax2d":
        return rank - 3
    given = option(evidence.trace, call, "dim")
    if given is None:
        return 0 if rank in (0, 1, 3) else 1  # torch's own choice, deprecated
    return given % rank if isinstance(given, int) and rank else None
