"""Steps that do not move anything."""

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, Evidence, Flow, Replay, operation, option
from cnnprobe.diagnosis.evidence.pace import CRAWLING, MANY, relative_changes
from cnnprobe.diagnosis.evidence.questions import optimised, stat
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying, perceptron

# median of update norm over weight norm per step; about 1e-3 is usual (Karpathy, CS231n)
SMALLEST = 1e-6
# the same, over which a loss that crawls has another reason; a tenth of the usual
CRAWL = 1e-4
GAINED = 10  # times its fall, which a few steps at the higher rate have to reach
# largest rate that a LambdaLR returns instead of a factor and is looked for; 1 times 1 is 1
SQUARED = 0.1
LOWERED = 1e-3  # of its first rate, below which a schedule is to blame
FEWEST = 16  # by which a mean is divided; smaller numbers are weights of a loss
ROUNDED = 1e-3  # relative, of a divisor that is read off two losses
SCALING = frozenset({"div", "mul"})
# relative fall of the loss within three steps at the higher rate, ten times what counts as no
# movement
FALL = 1e-3


def _training(rate: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    return classifying(model, optimizer=torch.optim.SGD(model.parameters(), lr=rate))


def sick() -> Mapping[str, Any]:
    """A rate of 1e-7."""
    return _training(1e-7)


def healthy() -> Mapping[str, Any]:
    """A rate of 1e-3."""
    return _training(1e-3)


@rule(
    code="CP507",
    name="lr-too-low",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit", "unchanged-weights"),
)
def lr_too_low(evidence: Evidence) -> Iterator[Finding]:
    """The loss does not move under the optimizer, and falls with a higher learning rate; a LambdaLR
    multiplies the rate by itself; or the mean of a batch is divided by the number of samples.

    Why it matters: training would take thousands of times as long.
    What to do: raise the learning rate by factors of 10 as long as the loss of one batch falls, or
    the limit of a clipping that leaves next to nothing; let a LambdaLR's function return a factor,
    not a rate; call backward on the mean itself.
    Known exceptions: a warm-up that raises the rate; a mean that is divided where gradients of
    several batches are added up, or for an optimizer whose steps do not depend on its size (Adam).
    Source: both runs were made from the same state; Karpathy, CS231n, "ratio of weights:updates".
    """
    squared = next(_find_squared_rates(evidence), None)
    if squared is not None:
        yield squared
        return
    divided = _find_divided(evidence)
    if divided is not None:
        yield divided
        return
    faster = next((r for r in evidence.replays if r.factor > 1), None)
    losses = [step.value for step in evidence.steps]
    rates = [r for o in evidence.optimizers for r in o.rates]
    scheduled = any(e.kind == "schedule" for s in evidence.steps for e in s.events)
    if faster is None or not faster.losses or losses[0] is None or not any(rates) or scheduled:
        return
    ratio = _measure_ratio(evidence)
    reached = [loss for loss in faster.losses if loss is not None and math.isfinite(loss)]
    if ratio is None or not reached:
        return
    end = min(reached)
    if ratio >= SMALLEST:
        yield from _find_crawl(evidence, ratio, faster, end)
        return
    if end < losses[0] - FALL * abs(losses[0]):
        rate = max(rates)
        why, fix = _find_lowered(evidence) or _shrunk(evidence, ratio)
        yield Finding(
            module=None,
            message=(
                f"the loss stays at {losses[0]:.4g} over {len(losses)} steps at a learning rate "
                f"of {rate:g}: a step changes the weights by {ratio:.1e} of "
                f"their size (less than {SMALLEST:g}); at {rate * faster.factor:.2g} it falls to "
                f"{end:.4g}{why}"
            ),
            fix=fix
            or (
                f"raise lr of {evidence.optimizers[0].name}, "
                f"{rate * max(min(100.0, faster.factor), faster.factor / 100):.1g} to begin with"
            ),
        )


def _find_divided(evidence: Evidence) -> Finding | None:
    """The mean over a batch that is divided by as many samples, or more, before backward."""
    step = evidence.steps[0] if evidence.steps else None
    if step is None or len(step.losses) != 1 or step.losses[0].call is None:
        return None
    is_plain = [o.kind for o in evidence.optimizers] == ["SGD"]
    if not is_plain or not all(any(e.kind == "step" for e in s.events) for s in evidence.steps):
        return None  # Adam's steps do not depend on it; gradients of several batches are added up
    flow = Flow(step.trace)
    index, divisor = step.losses[0].call, 1.0
    while operation(flow.calls[index]) in SCALING:
        call = flow.calls[index]
        before = [t for t in call.inputs if t.requires_grad]
        made = flow.producer(before[0]) if len(before) == 1 else None
        value, result = stat(before[0], "mean") if before else 0.0, stat(call.outputs[0], "mean")
        if made is None or before[0].shape != () or not value or not result:
            return None
        divisor, index = divisor * value / result, made
    is_mean = _is_mean(evidence, flow.calls[index])
    samples = next((t.shape[0] for t in evidence.inputs if t.shape), 0)
    if not is_mean or max(samples, FEWEST) > divisor * (1 + ROUNDED):
        return None
    return Finding(
        module=None,
        message=(
            f"the loss is the mean of a batch of {samples}, and is divided by {divisor:.6g} before "
            "backward: each step is that many times smaller"
        ),
        fix=(
            "call backward() on the mean itself; to log the sum over an epoch, add up "
            "loss.item() * len(targets)"
        ),
        source=flow.line(step.losses[0].call),
        kind="divided-again",
        subject=f"{divisor:.6g}",
    )


def _is_mean(evidence: Evidence, call: ModuleCall) -> bool:
    """Whether a row is a mean over all values, by itself or within a loss of torch's."""
    if not call.outputs or call.outputs[0].shape != ():
        return False
    name = operation(call)
    is_loss = name in LOSSES and name != "kl_div"
    return name == "mean" or (
        is_loss and option(evidence.trace, call, "reduction", "mean") == "mean"
    )


def _find_crawl(evidence: Evidence, ratio: float, faster: Replay, end: float) -> Iterator[Finding]:
    """Many steps on one batch that lower the loss by next to nothing, where a few of larger ones
    lower it by far more.
    """
    losses = [step.value for step in evidence.steps]
    first, last = losses[0], losses[-1]
    if len(losses) < MANY or ratio >= CRAWL or first is None or last is None or first <= 0:
        return
    own, other = (first - last) / first, (first - end) / first
    if own >= CRAWLING or other < max(GAINED * own, CRAWLING):
        return
    rate = max(r for o in evidence.optimizers for r in o.rates)
    yield Finding(
        module=None,
        message=(
            f"in {len(losses)} steps at a learning rate of {rate:g} the loss of one batch "
            f"{'falls' if own > 0 else 'changes'} from {first:.4g} by {abs(own):.2%}: a step "
            f"changes the weights by {ratio:.1e} of their size (about 1e-3 is usual); at "
            f"{rate * faster.factor:.2g} it falls by {other:.1%} in {len(faster.losses)} steps"
        ),
        fix=(
            f"raise lr of {evidence.optimizers[0].name}, "
            f"{rate * max(10.0, faster.factor / 100):.1g} to begin with"
        ),
    )


def _find_squared_rates(evidence: Evidence) -> Iterator[Finding]:
    """A LambdaLR whose function returns the rate, by which the base rate is multiplied."""
    for schedule in evidence.schedules:
        most = max(schedule.factors)
        still_rising = schedule.factors[-1] > schedule.factors[-2]
        is_rate = 0 < most <= SQUARED and math.isclose(most, schedule.base, rel_tol=1e-6)
        if is_rate and not still_rising:
            yield Finding(
                module=None,
                message=(
                    f"{schedule.name} multiplies the base rate {schedule.base:g} by at most "
                    f"{most:g}, the rate itself: the learning rate is at most "
                    f"{schedule.base * most:g} (a LambdaLR's function gives a factor, usually 1 "
                    "at its highest)"
                ),
                fix=(
                    "return a factor: divide what the function returns by the base rate, or build "
                    "the optimizer with lr=1.0"
                ),
            )


def _measure_ratio(evidence: Evidence) -> float | None:
    """By what part of its size a step changes a weight, the median of weights and steps."""
    rate = max((r for o in evidence.optimizers for r in o.rates), default=0.0)
    ratios = relative_changes(evidence.steps, evidence.values, rate, optimised(evidence))
    return statistics.median(ratios) if ratios else None


def _find_lowered(evidence: Evidence) -> tuple[str, str] | None:
    """The schedule that has lowered the rate so far: the rest of a message, and the repair."""
    for info in evidence.optimizers:
        for group in info.settings:
            first, rate = group.get("initial_lr", 0.0), group.get("lr", 0.0)
            if 0 < rate < LOWERED * first:
                return (
                    f"; it was {first:g} at first: the scheduler has lowered it",
                    (
                        "let the scheduler lower the rate by less (a gamma nearer to 1, or fewer "
                        f"steps of it: one an epoch), and begin again with lr={first:g}"
                    ),
                )
    return None


def _shrunk(evidence: Evidence, ratio: float) -> tuple[str, str]:
    """What makes the gradients so small that the rate is not to blame: the rest of a message and
    the repair; empty where nothing does.
    """
    if all(step.losses and step.losses[-1].scale == 1 for step in evidence.steps):
        scales = [
            e.rate for step in evidence.steps for e in step.events if e.kind == "scale" and e.rate
        ]
        unscaled = all(any(e.kind == "unscale" for e in step.events) for step in evidence.steps)
        if scales and unscaled and ratio * scales[0] >= SMALLEST:
            why = (
                f"; the gradients are divided by the scale of {scales[0]:g} before each step, and "
                "backward() was called on the loss without it"
            )
            return (
                why,
                "write scaler.scale(loss).backward(): the scaled loss is what scale() returns",
            )
    left = [e.rate for step in evidence.steps for e in step.events if e.kind == "clip" and e.rate]
    if left and ratio / max(left) >= SMALLEST:
        return (
            f"; the clipping leaves {max(left):.1e} of the gradients",
            "raise the limit of the clip_grad call, 1.0 to begin with",
        )
    return "", ""
