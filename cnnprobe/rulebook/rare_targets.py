"""Targets that are nearly all the same, which a constant output fits."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import LossCall, given_values, loss_calls, stat
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import classifying, images

LEAST = 50  # steps before it is judged
RARE = 0.05  # share of the targets that are not the commonest value
CLOSE = 0.9  # of the loss of the best constant
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy")


def _finding(rate: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    given = images(8, size=16)
    return classifying(
        model,
        inputs=given,
        targets=(given > 2.2).float(),
        loss_fn=nn.BCEWithLogitsLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=rate),
        steps=LEAST,
    )


def sick() -> Mapping[str, Any]:
    """One pixel of a hundred is foreground, and fifty steps have taught the model none."""
    return _finding(2e-3)


def healthy() -> Mapping[str, Any]:
    """As few, and a rate at which they are learnt."""
    return _finding(0.1)


@rule(code="CP466", name="rare-targets", severity=Severity.INFO, examples=(sick, healthy))
def rare_targets(evidence: Evidence) -> Iterator[Finding]:
    """More than 95% of the targets are the same value, and after 50 steps the loss of the batch is
    no lower than a constant output would make it.

    Why it matters: a constant output is then nearly right everywhere, and what is looked for is
    hardly part of the loss.
    What to do: weigh the rare values (pos_weight, class weights), or use a dice or focal loss; else
    train longer and look at the rare values alone.
    Known exceptions: fewer than 50 steps; losses other than a plain mse_loss or a binary cross
    entropy; a loss that has weights.
    Source: the best constant gives mse_loss the variance of the targets, and a cross entropy their
    entropy; Lin et al. 2017, arXiv:1708.02002, section 3.
    """
    losses = [step.value for step in evidence.steps]
    found = list(loss_calls(evidence))
    if len(losses) < LEAST or len(found) != 1 or any(len(s.losses) != 1 for s in evidence.steps):
        return
    last, loss = losses[-1], found[0]
    target = given_values(evidence, loss)
    if last is None or target is None or not _is_whole(evidence, loss):
        return
    share, best = _judge(loss, target)
    if share <= RARE and best > 0 and last > CLOSE * best:
        yield Finding(
            module=None,
            message=(
                f"{1 - share:.1%} of the targets are next to {_common(target):g}, and after "
                f"{len(losses)} steps on one batch the loss is {last:.3g}; an output that is "
                f"constant can make it {best:.3g}"
            ),
            fix=(
                "weigh the rare targets: pos_weight or class weights, a dice or focal loss, a "
                "weight of each place in a regression"
            ),
            source=loss.call.source,
        )


def _is_whole(evidence: Evidence, loss: LossCall) -> bool:
    """Whether the loss is this row and nothing else, without weights."""
    made = evidence.steps[0].losses[0].call
    beside = {made} if made is not None else set()
    inside = loss.flow.before(loss.index) | {loss.index}
    behind = (loss.flow.before(made) | beside) - inside if made is not None else {-1}
    return len(loss.call.inputs) == 2 and not any(loss.flow.is_primitive[i] for i in behind)


def _judge(loss: LossCall, target: TensorInfo) -> tuple[float, float]:
    """The share of the rare values, and the loss of the best constant; 1 and 0 where that is not
    known.
    """
    mean, std, least = (stat(target, name) for name in ("mean", "std", "min"))
    if loss.operation == "mse_loss" and least >= 0 and mean > 0:
        return mean**2 / (mean**2 + std**2), std**2
    is_binary = least == 0 and stat(target, "max") == 1 and _is_hard(mean, std)
    if loss.operation in BINARY and is_binary:
        entropy = -mean * math.log(mean) - (1 - mean) * math.log(1 - mean)
        return min(mean, 1 - mean), entropy
    return 1.0, 0.0


def _is_hard(mean: float, std: float) -> bool:
    """Whether each value is 0 or 1: the variance is then that of a coin."""
    return 0 < mean < 1 and math.isclose(std**2, mean * (1 - mean), rel_tol=1e-3)


def _common(target: TensorInfo) -> float:
    return 1.0 if stat(target, "mean") > 1 / 2 else 0.0
