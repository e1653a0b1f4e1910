"""A first loss far from that of guessing."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, option
from cnnprobe.diagnosis.evidence.questions import (
    LossCall,
    given_values,
    input_stats,
    is_cosine,
    loss_calls,
    owner,
    spoken,
    stat,
    trainable,
    variable,
)
from cnnprobe.rulebook.material import classifying, perceptron

TIMES = 2.0  # times the loss of guessing ln C ...
MORE = 2.0  # ... plus this many nats: logits of unit variance add but 0.5


def _scaled(factor: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    with torch.no_grad():
        model[3].weight.mul_(factor)
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-5))


def sick() -> Mapping[str, Any]:
    """A last layer 100 times too large."""
    return _scaled(100.0)


def healthy() -> Mapping[str, Any]:
    """One that is 5 times larger than usual."""
    return _scaled(5.0)


@rule(code="CP411", name="loss-at-init", severity=Severity.WARNING, examples=(sick, healthy))
def loss_at_init(evidence: Evidence) -> Iterator[Finding]:
    """The first cross entropy is far above that of guessing, ln C for C classes.

    Why it matters: the model starts out sure and wrong, and spends its first steps on shrinking the
    last layer.
    What to do: initialise the last layer smaller, normalise the inputs, or check that the labels
    belong to these classes.
    Known exceptions: class weights and summed losses are not judged, nor cosines with a scale and a
    margin (ArcFace), which start out high by design. A last layer that has learnt before, or that
    is frozen, has no initialisation to be wrong: info.
    Source: Karpathy 2019, "A Recipe for Training Neural Networks", "verify loss @ init".
    """
    for loss in loss_calls(evidence):
        if (
            loss.operation not in ("cross_entropy", "binary_cross_entropy_with_logits")
            or not loss.call.outputs
            or len(loss.prediction.shape) < 1
        ):
            continue
        reduction = option(evidence.trace, loss.call, "reduction", "mean")
        if reduction != "mean" or len(loss.call.inputs) > 2:
            continue
        classes = (
            2
            if loss.operation != "cross_entropy"
            else loss.prediction.shape[1 if len(loss.prediction.shape) > 1 else 0]
        )
        value, guess = stat(loss.call.outputs[0], "mean"), math.log(max(classes, 2))
        if is_cosine(loss.flow, loss.origin):
            continue
        if value > TIMES * guess + MORE:
            spread = stat(input_stats(loss.flow, loss.prediction), "std")
            target = given_values(evidence, loss)
            if loss.operation != "cross_entropy" and not (
                stat(target, "min") >= 0 and stat(target, "max") <= 1
            ):
                continue
            message = (
                f"the first loss is {value:.3g} (guessing among {classes} classes gives "
                f"{guess:.3g}, the bound is {TIMES * guess + MORE:.3g}); the logits have a "
                f"standard deviation of {spread:.3g}"
            )
            yield _to_finding(evidence, loss, message)
            return


def _to_finding(evidence: Evidence, loss: LossCall, message: str) -> Finding:
    module = loss.flow.owner(loss.origin)
    if module is not None and _has_learnt(evidence, module):
        return Finding(
            module=module,
            severity=Severity.INFO,
            message=f"{message}; {spoken(evidence, module)} has learnt something else before",
            fix=(
                "nothing where the task is new; else use the labels and the normalisation of the "
                "training before"
            ),
            source=loss.call.source,
            kind="learnt",
        )
    return Finding(
        module=module,
        message=message,
        fix=(
            f"initialise the last layer of {variable(evidence, 'model')} smaller, "
            "normalise the inputs, and check the labels"
        ),
        source=loss.call.source,
    )


def _has_learnt(evidence: Evidence, module: str) -> bool:
    """Whether a layer holds what another training has left there."""
    names = {p.fqn for p in evidence.trace.parameters if owner(p.fqn) == module}
    return module in evidence.learnt or bool(names and not names & trainable(evidence).keys())
