"""Two linear layers with nothing between them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    ARRANGING,
    NONLINEAR,
    PROJECTIONS,
    Evidence,
    Flow,
    describe,
    operation,
)
from cnnprobe.diagnosis.evidence.projections import Projection, projection
from cnnprobe.diagnosis.evidence.questions import owner, spoken, trainable
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import classifying, images, layers

SCALING = frozenset({"mul", "div", "dropout"})  # what an adapter does before it is added
HANDING_ON = frozenset(
    {
        "flatten",
        "view",
        "reshape",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "identity",
        "dropout",
        "to",
        "float",
        "double",
        "half",
        "clone",
    }
)


def sick() -> Mapping[str, Any]:
    """Two linear layers in a row."""
    from torch import nn

    return classifying(layers(nn.Flatten(), lambda: nn.Linear(64, 32), lambda: nn.Linear(32, 4)))


def healthy() -> Mapping[str, Any]:
    """A bottleneck of rank 3 between 64 inputs and 64 outputs is a design."""
    import torch
    from torch import nn

    model = layers(nn.Flatten(), lambda: nn.Linear(64, 3), lambda: nn.Linear(3, 64))
    return classifying(
        model,
        targets=images().flatten(1),
        loss_fn=nn.MSELoss(),
        optimizer=torch.optim.Adam(model.parameters()),
    )


@rule(
    code="CP312",
    name="missing-nonlinearity",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit",),
)
def missing_nonlinearity(evidence: Evidence) -> Iterator[Finding]:
    """A linear layer or convolution feeds straight into the next one.

    Why it matters: two linear maps in a row are one linear map; the second layer adds no power.
    What to do: put an activation between them, or merge them.
    Known exceptions: low-rank bottlenecks and adapters, depthwise, factorised (1 x k) and
    transposed convolutions, normalised projections (MobileNet), values that something else reads
    too, what the loop hands from one network to another, and a pair of which one is frozen or has
    fixed filters in a buffer. What one named network of layers and activations hands to the next,
    as a projector to a predictor, is info.
    Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", section 6.1.
    """
    flow, learning = Flow(evidence.trace), trainable(evidence)
    blamed: set[str | None] = set()
    for i in flow.primitives({"linear", "conv"}):
        found = _successor(flow, i)
        if found is None or flow.owner(i) is None:
            continue
        following, normalised = found
        if _is_half_frozen(learning, flow.calls[i], flow.calls[following]):
            continue
        first, second = (
            projection(evidence.trace, flow.calls[i]),
            projection(evidence.trace, flow.calls[following]),
        )
        kinds = (operation(flow.calls[i]), operation(flow.calls[following]))
        if (
            first is None
            or second is None
            or not _collapse(kinds, first, second, normalised)
            or (flow.owner(i) in blamed and flow.calls[i].fqn is not None)
        ):
            continue
        if _is_adapter(flow, i, following) or _outermost(flow, i) != _outermost(flow, following):
            continue
        blamed.add(flow.owner(i))
        between = "only a normalisation" if normalised else "no activation"
        yield Finding(
            module=flow.owner(i),
            severity=Severity.INFO if _joins_networks(flow, i, following) else None,
            message=(
                f"{describe(flow.calls[i])} feeds {describe(flow.calls[following])} with "
                f"{between} between them: {first.inputs} to {first.outputs} to {second.outputs} "
                "is one linear map"
            ),
            fix=f"put an activation such as ReLU after {spoken(evidence, flow.owner(i))}",
            source=flow.line(i),
        )


def _is_half_frozen(learning: Collection[str], *calls: ModuleCall) -> bool:
    """Whether one of two layers is trained and the other is not: they cannot be one. The filters of
    a wavelet, which are a buffer, are not.
    """
    return {True, False} <= {_learns(learning, call) for call in calls}


def _learns(learning: Collection[str], call: ModuleCall) -> bool | None:
    """Whether a layer is trained; None for a function whose weights are computed."""
    if call.fqn is not None:
        return call.fqn in {owner(name) for name in learning}
    named = {info.source for info in call.inputs[1:] if isinstance(info.source, str)}
    return bool(named & set(learning)) if named else None


def _joins_networks(flow: Flow, first: int, second: int) -> bool:
    """Whether each of two linear layers belongs to a named network with activations of its own: an
    encoder's code is a value of its own, even where nothing else reads it.
    """
    parents = [(flow.calls[i].fqn or "").rpartition(".")[0] for i in (first, second)]
    names = [parent.rpartition(".")[2] for parent in parents]
    if operation(flow.calls[first]) != "linear" or len(set(parents)) == 1:
        return False
    owners = [flow.owner(i) or "" for i in flow.primitives(NONLINEAR)]
    return all(
        name and not name.isdigit() and any(o.startswith(f"{parent}.") for o in owners)
        for name, parent in zip(names, parents, strict=True)
    )


def _successor(flow: Flow, index: int) -> tuple[int, bool] | None:
    """The linear layer or convolution that is the only reader of a row, and whether a BatchNorm
    lies between.
    """
    normalised = False
    while True:
        readers = flow.readers.get(index, [])
        if len(readers) != 1:
            return None
        index = readers[0]
        kind = operation(flow.calls[index])
        if kind in ("linear", "conv"):
            data = flow.calls[index].inputs[0]
            return (index, normalised) if flow.producer(data) is not None else None
        if kind == "batch_norm" and not normalised:
            normalised = True
        elif kind not in HANDING_ON:
            return None


def _is_adapter(flow: Flow, first: int, second: int) -> bool:
    """Whether the pair is added to what another layer makes of the same input (LoRA), scaled or
    not.
    """
    given = flow.data(first)
    beside = [
        i
        for i in flow.primitives(PROJECTIONS)
        if i not in (first, second) and _is_same(flow.data(i), given)
    ]
    ends = flow.passes_on(second, ARRANGING | SCALING)
    sums = [i for i in ends if operation(flow.calls[i]) == "add"]
    return any(i in flow.before(end) for end in sums for i in beside)


def _is_same(data: TensorInfo | None, other: TensorInfo | None) -> bool:
    """Whether two rows are given one tensor: of one row, or both what the model was given."""
    if data is None or other is None or isinstance(data.source, str):
        return False
    return (data.source, data.shape) == (other.source, other.shape)


def _outermost(flow: Flow, index: int) -> int:
    """The call that the loop made itself and that a row lies in: what one network hands to another
    (generator and critic) is an output.
    """
    found = index
    parent: int | None = index
    while parent is not None:
        if flow.calls[parent].fqn is not None:
            found = parent
        parent = flow.calls[parent].parent
    return found


def _collapse(
    kinds: tuple[str, str], first: Projection, second: Projection, normalised: bool
) -> bool:
    if kinds == ("linear", "conv") or first.groups > 1 or second.groups > 1:
        return False
    if kinds == ("conv", "conv"):
        square = all(len(set(p.kernel)) == 1 for p in (first, second))
        pointwise = set(first.kernel) == {1} or set(second.kernel) == {1}
        if pointwise:
            return not normalised and square and first.outputs >= min(first.inputs, second.outputs)
        return square
    return not normalised and first.outputs >= min(first.inputs, second.outputs)
