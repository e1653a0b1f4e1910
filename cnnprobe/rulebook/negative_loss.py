"""A loss that has no lower bound."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import given_values, loss_calls, stat
from cnnprobe.rulebook.material import classifying, images, layers

TOLERANCE = 1e-6  # rounding of targets in [0, 1]


def _masks(scale: float) -> Mapping[str, Any]:
    from torch import nn

    masks = (images() > 0).float() * scale
    return classifying(
        layers(lambda: nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), lambda: nn.Conv2d(4, 1, 1)),
        targets=masks,
        loss_fn=nn.BCEWithLogitsLoss(),
    )


def sick() -> Mapping[str, Any]:
    """Masks of 0 and 255."""
    return _masks(255.0)


def healthy() -> Mapping[str, Any]:
    """Masks of 0 and 1."""
    return _masks(1.0)


@rule(
    code="CP409",
    name="negative-loss",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "divergence",
        "loss-not-decreasing",
        "cannot-overfit",
        "exploding-gradient",
        "lr-too-high",
    ),
)
def negative_loss(evidence: Evidence) -> Iterator[Finding]:
    """A loss that should be at least 0 is negative, or can fall without end.

    Why it matters: there is nothing to converge to; the outputs grow for ever.
    What to do: bring the targets of a binary cross entropy into [0, 1] (divide masks by 255);
    square or take the magnitude of a difference.
    Known exceptions: losses that may be negative by design (Wasserstein, ELBO, Gaussian likelihood)
    are not standard losses of targets and are not reported.
    Source: torch.nn.BCELoss, "the targets y should be numbers between 0 and 1".
    """
    flow = Flow(evidence.trace)
    for loss in loss_calls(evidence):
        target = given_values(evidence, loss)
        low, high = stat(target, "min"), stat(target, "max")
        if loss.operation == "binary_cross_entropy_with_logits" and (
            low < -TOLERANCE or high > 1 + TOLERANCE
        ):
            yield Finding(
                module=None,
                message=(
                    f"the targets of a binary cross entropy run from {low:.3g} to {high:.3g} "
                    "(outside [0, 1]), so that it has no lower bound"
                ),
                fix="divide the targets by 255" if high == 255 else "bring the targets into [0, 1]",
                source=loss.call.source,
            )
        elif (
            loss.operation in ("cross_entropy", "nll_loss", "mse_loss")
            and stat(loss.call.outputs[0] if loss.call.outputs else None, "max") < 0
        ):
            yield Finding(
                module=None,
                message=(
                    f"{loss.operation} is {stat(loss.call.outputs[0], 'mean'):.3g} (less than 0)"
                ),
                fix=(
                    "check what goes into it: log-probabilities, weights that are not negative, "
                    "targets that are distributions"
                ),
                source=loss.call.source,
            )
    yield from _signed_difference(evidence, flow)


def _signed_difference(evidence: Evidence, flow: Flow) -> Iterator[Finding]:
    """mean(prediction - target): errors of both signs cancel, and less is always possible."""
    targets = {info.shape for info in evidence.targets}
    for loss in evidence.steps[0].losses if evidence.steps else ():
        index = loss.call
        while index is not None and operation(flow.calls[index]) in ("mean", "sum", "neg"):
            index = flow.producer(flow.data(index))
        if index is None or operation(flow.calls[index]) not in ("sub", "rsub"):
            continue
        ends = [flow.outer(info) for info in flow.calls[index].inputs]
        if any(e.source is None and e.shape in targets for e in ends):
            yield Finding(
                module=None,
                message=(
                    f"the loss is the mean of signed differences ({loss.value:.3g}): it has no "
                    "lower bound"
                ),
                fix="square the difference or take its magnitude: ((output - target) ** 2).mean()",
                source=flow.line(index),
            )
