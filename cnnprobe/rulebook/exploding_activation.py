"""Activations that grow from layer to layer."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, PROJECTIONS, Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import rms, spoken, stat
from cnnprobe.rulebook.material import classifying, layers

LARGE = 1e4  # rms of a layer's output, absolute and relative to that of the model's input
WEIGHTED = PROJECTIONS | {"matmul", "batch_norm"}
GROWING = WEIGHTED | {"add", "mul", "relu"}


def _net(gain: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = layers(
        nn.Flatten(),
        *[part for _ in range(6) for part in ((lambda: nn.Linear(64, 64)), nn.ReLU())],
        lambda: nn.Linear(64, 4),
    )
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(gain)
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-4))


def sick() -> Mapping[str, Any]:
    """Each of seven layers enlarges tenfold."""
    return _net(20.0)


def healthy() -> Mapping[str, Any]:
    """Each keeps the size."""
    return _net(2.4)


@rule(
    code="CP103",
    name="exploding-activation",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
    explains=(
        "exploding-gradient",
        "loss-at-init",
        "nan-forward",
        "divergence",
        "lr-too-high",
        "update-ratio",
    ),
)
def exploding_activation(evidence: Evidence) -> Iterator[Finding]:
    """A layer's output is ten thousand times as large as the model's input.

    Why it matters: the loss starts huge and its gradients too; half precision overflows at 65504.
    What to do: initialise by fan-in (Kaiming), add normalisation, scale residual branches.
    Known exceptions: none below a thousandfold growth; numbers that no weight went into or that are
    held fixed, as the areas of boxes in pixels; what is multiplied by such a number, as the
    distance of a ray's last sample, which stands for infinity; a loss, and what is made of one.
    Source: He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2.
    """
    flow = Flow(evidence.trace)
    sizes = [rms(info) for info in evidence.inputs if info.dtype.startswith(("float", "bfloat"))]
    given = max([s for s in sizes if math.isfinite(s)], default=1.0)
    for i in flow.primitives():
        call = flow.calls[i]
        if (
            flow.owner(i) is None
            or not call.outputs
            or not call.outputs[0].dtype.startswith(("float", "bfloat"))
            or operation(call) in ("masked_fill", "full", "full_like")
        ):
            continue
        if stat(call.outputs[0], "nan") > 0 or stat(call.outputs[0], "inf") > 0:
            return  # what is not finite comes first, and has a finding of its own
        size = rms(call.outputs[0])
        if (
            size > LARGE
            and size > LARGE * given
            and operation(call) in GROWING
            and _is_activation(flow, i)
            and not _is_given_large(flow, i)
            and not _is_of_a_loss(flow, i)
        ):
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"the output of {describe(call)} has a root mean square of {size:.2g} (more "
                    f"than {LARGE:g}); the model's input has {given:.2g}"
                ),
                fix=(
                    f"initialise the layers up to {spoken(evidence, flow.owner(i))} by fan-in, or "
                    "put a normalisation between them"
                ),
                source=call.source,
            )
            return


def _is_given_large(flow: Flow, index: int) -> bool:
    """Whether a product or a sum is as large only because a number without weights is."""
    return operation(flow.calls[index]) in ("add", "mul") and any(
        rms(info) > LARGE and (made is None or not _is_activation(flow, made))
        for info in flow.calls[index].inputs
        for made in (flow.producer(info),)
        if not isinstance(info.source, str)
    )


def _is_of_a_loss(flow: Flow, index: int) -> bool:
    """Whether a row is a loss, a single number, or is made of one."""
    calls = [flow.calls[i] for i in flow.before(index) | {index}]
    return any(
        operation(call) in LOSSES or (call.outputs and call.outputs[0].shape == ())
        for call in calls
        if call.inputs
    )


def _is_activation(flow: Flow, index: int) -> bool:
    """Whether the values have come through weights, and the gradient of these through them: not
    coordinates, areas, or targets.
    """
    layers = [
        flow.calls[i] for i in flow.before(index) | {index} if operation(flow.calls[i]) in WEIGHTED
    ]
    learns = any(info.requires_grad for call in layers for info in call.outputs)
    return bool(layers) and (not learns or flow.calls[index].outputs[0].requires_grad)
