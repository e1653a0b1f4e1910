"""A softmax where a hidden layer's activation belongs."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    FORWARDING,
    PROJECTIONS,
    Evidence,
    Flow,
    describe,
    operation,
    option,
)
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.operations import select_groups
from cnnprobe.rulebook.material import classifying, layers

LEAST = 8  # values that sum to 1; of fewer a choice may be meant
POOLING = select_groups(family="pooling")


def _net(activation: Any) -> Mapping[str, Any]:
    from torch import nn

    return classifying(
        layers(nn.Flatten(), lambda: nn.Linear(64, 32), activation, lambda: nn.Linear(32, 4))
    )


def sick() -> Mapping[str, Any]:
    """Between two linear layers."""
    from torch import nn

    return _net(nn.Softmax(dim=1))


def healthy() -> Mapping[str, Any]:
    """A sigmoid, which leaves each value its own size."""
    from torch import nn

    return _net(nn.Sigmoid())


@rule(
    code="CP338",
    name="softmax-between-layers",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit", "loss-not-decreasing", "vanishing-gradient", "lr-too-low"),
)
def softmax_between_layers(evidence: Evidence) -> Iterator[Finding]:
    """A softmax is the activation between two layers of one block.

    Why it matters: its values sum to 1, so that each of 64 is about 0.016 and differs little
    between samples; the layers before it get hardly any gradient.
    What to do: ReLU in its place; a softmax belongs behind the last layer, or into the loss.
    Known exceptions: attention and gates, which multiply; a choice of fewer than 8 values; a memory
    that a layer without a bias reads out; codes that one network hands to another.
    Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", section 6.2.2.3: softmax is most
    often the output of a classifier, and rarely used inside of a model.
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives({"softmax"}):
        call = flow.calls[i]
        made = flow.origin(call.inputs[0], FORWARDING) if call.inputs else None
        readers = flow.passes_on(i, FORWARDING | POOLING)
        if made is None or not readers or operation(flow.calls[made]) not in PROJECTIONS:
            continue
        if all(_is_next(evidence, flow, made, j) for j in readers) and _is_wide(
            evidence, flow, i, made
        ):
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{describe(call)} stands between {describe(flow.calls[made])} and "
                    f"{describe(flow.calls[readers[0]])}: the "
                    f"{_count(flow, made)} values that it hands on sum to 1"
                ),
                fix=(
                    f"put a ReLU in its place in {spoken(evidence, flow.owner(i))}, and keep "
                    "softmax for the output"
                ),
                source=call.source,
                subject=describe(call),
            )


def _is_next(evidence: Evidence, flow: Flow, made: int, reader: int) -> bool:
    """Whether a row is a layer with weights and a bias of the same block as the one before."""
    fqns = [flow.calls[i].fqn for i in (made, reader)]
    if None in fqns or operation(flow.calls[reader]) not in PROJECTIONS:
        return False
    blocks = {(fqn or "").rpartition(".")[0] for fqn in fqns}
    biased = any(p.fqn == f"{fqns[1]}.bias" for p in evidence.trace.parameters)
    return len(blocks) == 1 and biased


def _find_features(flow: Flow, made: int) -> int:
    """The dim of the features in a layer's output."""
    rank = len(flow.calls[made].outputs[0].shape)
    return rank - 1 if operation(flow.calls[made]) == "linear" else 1


def _count(flow: Flow, made: int) -> int:
    return flow.calls[made].outputs[0].shape[_find_features(flow, made)]


def _is_wide(evidence: Evidence, flow: Flow, index: int, made: int) -> bool:
    """Whether the softmax runs over the features of a layer, and these are many."""
    given, outputs = flow.calls[index].inputs[0], flow.calls[made].outputs
    dim = option(evidence.trace, flow.calls[index], "dim", None)
    if not outputs or len(outputs[0].shape) < 2 or outputs[0].shape != given.shape:
        return False
    is_over_features = isinstance(dim, int) and dim % len(given.shape) == _find_features(flow, made)
    return is_over_features and _count(flow, made) >= LEAST
