"""An activation between the last layer and a loss of logits."""

import math
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
from cnnprobe.diagnosis.evidence.questions import (
    LossCall,
    is_cosine,
    loss_calls,
    spoken,
    stat,
    trainable,
)
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import classifying, layers, perceptron

BELOW = 0.9  # a factor this small is a temperature at the wrong place
SCALE = 10.0  # of cosines: NormFace finds it between 10 and 30
_IN_TWO_CALLS = {("nll_loss", "log_softmax"), ("binary_cross_entropy", "sigmoid")}  # of one loss
BENDING = frozenset(
    {
        "relu",
        "relu6",
        "tanh",
        "sigmoid",
        "hardtanh",
        "hardsigmoid",
        "softsign",
        "gelu",
        "silu",
        "elu",
        "selu",
        "celu",
        "mish",
        "hardswish",
        "softplus",
        "threshold",
    }
)


def sick() -> Mapping[str, Any]:
    """A ReLU after the last layer."""
    from torch import nn

    return classifying(perceptron(end=(nn.ReLU(),)))


def healthy() -> Mapping[str, Any]:
    """SqueezeNet's head: the activation is averaged before it becomes the logits."""
    from torch import nn

    return classifying(
        layers(
            lambda: nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            lambda: nn.Conv2d(16, 4, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    )


@rule(
    code="CP404",
    name="activation-on-logits",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit", "dead-relu", "zero-grad"),
)
def activation_on_logits(evidence: Evidence) -> Iterator[Finding]:
    """The logits pass through an activation, a normalisation or a dropout before the loss.

    Why it matters: a dropout sets the score of a class to 0 at random; a ReLU cannot say "unlikely"
    and stops the gradient of every negative logit; tanh, sigmoid and a length of 1 bound how sure
    the model can be.
    What to do: remove the activation after the last layer; multiply cosines by a scale; put a
    dropout before that layer.
    Known exceptions: an activation that is pooled or scaled afterwards (SqueezeNet, NiN, 10 * tanh)
    is a design and is not reported.
    Source: the logits of a softmax are unbounded: Goodfellow, Bengio, Courville 2016, "Deep
    Learning", section 6.2.2.3; the scale of cosines: Wang et al. 2017, arXiv:1704.06369,
    proposition 2.
    """
    for loss in loss_calls(evidence):
        flow, origin = loss.flow, loss.origin
        if (loss.operation, loss.origin_operation) in _IN_TWO_CALLS:
            before = flow.data(origin) if origin is not None else None
            origin = flow.origin(before, FORWARDING) if before is not None else None
        elif loss.operation not in ("cross_entropy", "binary_cross_entropy_with_logits"):
            continue
        dropped = _dropout(
            evidence,
            flow,
            flow.data(loss.index if origin == loss.origin else loss.origin or loss.index),
        )
        if dropped is not None:
            yield dropped
        if origin is None:
            continue
        kind = operation(flow.calls[origin])
        if loss.operation == "cross_entropy" and _are_cosines(evidence, flow, origin):
            yield _to_cosines(loss, origin)
            continue
        factor = _find_shrinking(flow, origin)
        if loss.operation == "cross_entropy" and factor is not None:
            yield _to_cosines(loss, origin, factor)
            continue
        if kind not in BENDING or (
            loss.operation == "binary_cross_entropy_with_logits"
            and kind in ("sigmoid", "hardsigmoid")
        ):
            continue
        yield _to_finding(evidence, flow, origin)


def _to_finding(evidence: Evidence, flow: Flow, origin: int) -> Finding:
    call, place = flow.calls[origin], flow.owner(origin)
    made = call.outputs[0] if call.outputs else None
    return Finding(
        module=place,
        message=(
            f"the logits are the output of {describe(call)}: values from "
            f"{stat(made, 'min'):.3g} to {stat(made, 'max'):.3g}, where a loss of logits "
            "needs all numbers"
        ),
        fix=f"remove the {operation(call)} after the last layer of {spoken(evidence, place)}",
        source=flow.line(origin),
        subject=describe(call),
    )


def _are_cosines(evidence: Evidence, flow: Flow, origin: int) -> bool:
    """Whether the logits are the parts of a vector of unit length, or its products with weights of
    unit length.
    """
    call = flow.calls[origin]
    if operation(call) == "normalize":
        return True
    weights = {flow.outer(t).source for i in flow.before(origin) for t in flow.calls[i].inputs}
    is_product = operation(call) in PROJECTIONS | {"matmul"}
    return is_product and is_cosine(flow, origin) and bool(weights & set(trainable(evidence)))


def _find_shrinking(flow: Flow, origin: int) -> float | None:
    """The factor below 1 that cosines are multiplied by; None where it is another product."""
    call = flow.calls[origin]
    base = flow.origin(call.inputs[0]) if call.inputs else None
    is_scaled = operation(call) in ("mul", "div") and base is not None
    if not is_scaled or base is None or not is_cosine(flow, base):
        return None
    if operation(flow.calls[base]) not in PROJECTIONS | {"matmul"}:
        return None
    before, after = (_find_largest(flow.calls[i]) for i in (base, origin))
    return after / before if 0 < after < BELOW * before else None


def _find_largest(call: ModuleCall) -> float:
    made = call.outputs[0]
    return max(abs(stat(made, "min")), abs(stat(made, "max")))


def _to_cosines(loss: LossCall, origin: int, factor: float = 1.0) -> Finding:
    classes = loss.prediction.shape[1] if len(loss.prediction.shape) > 1 else 1
    least = math.log(1 + (classes - 1) * math.exp(-2 * factor))
    made = loss.flow.calls[origin].outputs[0]
    return Finding(
        module=loss.flow.owner(origin),
        message=(
            f"the logits are cosines{'' if factor == 1 else f' times {factor:.2g}'}, the output "
            f"of {describe(loss.flow.calls[origin])}: values "
            f"from {stat(made, 'min'):.3g} to {stat(made, 'max'):.3g}, so that the cross entropy "
            f"of {classes} classes stays above {least:.2g}"
        ),
        fix="divide them by the temperature, and do not multiply"
        if factor != 1
        else f"multiply them by a scale, {SCALE:g} to begin with, before the loss",
        source=loss.flow.line(origin),
        kind="cosines" if factor == 1 else "shrunk-cosines",
        subject=describe(loss.flow.calls[origin]),
    )


def _dropout(evidence: Evidence, flow: Flow, logits: TensorInfo | None) -> Finding | None:
    """An active dropout whose output the logits are."""
    place = None if logits is None else flow.origin(logits)
    if place is None or operation(flow.calls[place]) != "dropout":
        return None
    call = flow.calls[place]
    rate = option(evidence.trace, call, "p", 0.5)
    active = (
        option(evidence.trace, call, "training", True)
        if call.fqn is None
        else evidence.trace.module(call.fqn).training
    )
    if not active or not rate:
        return None
    return Finding(
        module=flow.owner(place),
        message=(
            f"the logits are the output of {describe(call)}: {float(str(rate)):.0%} of them are "
            "set to 0 at random before the loss"
        ),
        fix="put the dropout before the last layer",
        source=flow.line(place),
        kind="dropout",
        subject=describe(call),
    )
