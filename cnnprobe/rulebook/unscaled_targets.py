"""Targets of a regression that are far from the size of what a fresh layer gives."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import (
    given_values,
    input_stats,
    loss_calls,
    rms,
    stat,
    variable,
)
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import classifying, images, perceptron

LARGE = 100.0  # root mean square of targets; ages have 40, pixels in [0, 255] 150
MODERATE = 20.0  # the same; angles in degrees have 50
FURTHER = 300.0  # times the first prediction, of moderate targets
APART = 100.0  # times the root mean square of the first prediction
# times the root mean square, of the largest: a few outliers, whose gradients a clip bounds; 64
# normal values reach 3
OUTLYING = 5.0
REGRESSION = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def _regressing(factor: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = perceptron()
    return classifying(
        model,
        targets=factor * (3 + images().flatten(1)[:, :4]),
        loss_fn=nn.MSELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
    )


def sick() -> Mapping[str, Any]:
    """Prices of about 300000."""
    return _regressing(1e5)


def healthy() -> Mapping[str, Any]:
    """In units of 100000."""
    return _regressing(1.0)


@rule(
    code="CP421",
    name="unscaled-targets",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "exploding-gradient",
        "loss-not-decreasing",
        "cannot-overfit",
        "lr-too-low",
        "lr-too-high",
        "divergence",
        "update-ratio",
    ),
)
def unscaled_targets(evidence: Evidence) -> Iterator[Finding]:
    """The targets of a regression are more than a hundred times as large as what the model gives at
    first.

    Why it matters: the bias of the last layer has to travel there in steps of the learning rate,
    and the squared error of one such output drowns every other loss beside it.
    What to do: standardise the targets, (y - y.mean()) / y.std() of the training set, and turn the
    prediction back; or start the last bias at their mean.
    Known exceptions: targets below 20 on average; those below 100, as ages and angles in degrees,
    are an info, from 300 times on; a last bias that starts near them. A few outliers in a loop that
    clips gradients, which bounds what they do, are an info too.
    Source: LeCun et al. 1998, "Efficient BackProp", section 4.5; Karpathy 2019, "A Recipe for
    Training Neural Networks", "init well".
    """
    for loss in loss_calls(evidence):
        if loss.operation not in REGRESSION or loss.target is None:
            continue
        target = given_values(evidence, loss)
        size, given = rms(target), rms(input_stats(loss.flow, loss.prediction))
        apart = APART if size > LARGE else FURTHER
        if not (size > MODERATE and size > apart * given > 0):
            continue
        is_bounded = _clips(evidence) and _reach(target) > OUTLYING * size
        yield Finding(
            module=None,
            severity=None if size > LARGE and not is_bounded else Severity.INFO,
            message=(
                f"the targets have a root mean square of {size:.3g} (values from "
                f"{stat(target, 'min'):.3g} to {stat(target, 'max'):.3g}), what the model gives "
                f"one of {given:.3g}: more than {apart:g} times as much"
            ),
            fix=(
                f"standardise {variable(evidence, 'targets')}, (y - mean) / std of the training "
                "set, and turn predictions back"
            ),
            source=loss.call.source,
        )
        return


def _clips(evidence: Evidence) -> bool:
    """Whether the loop clips gradients, at whatever place: clip-ineffective judges that."""
    return any(event.kind == "clip" for step in evidence.steps for event in step.events)


def _reach(target: TensorInfo | None) -> float:
    return max(abs(stat(target, "min")), abs(stat(target, "max")))
