"""What the optimizers hold and do, and what the schedulers make of their learning rates."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Compounding, OptimizerInfo, Restarted, Schedule, Step
from cnnprobe.diagnosis.evidence.optimizers import describe_optimizer
from cnnprobe.recorder.inventory import has_values
from cnnprobe.training.hidden import HiddenThing
from cnnprobe.training.request import Request
from cnnprobe.training.surroundings import Surroundings

FACTORS = 5  # steps of which the factors are looked at
SAME = 1e-6  # relative; a rate is a Python number
SCHEDULED = 100  # batches that an epoch has at least, for most data sets
_WITH_AN_END = frozenset(
    {
        "OneCycleLR",
        "CosineAnnealingLR",
        "CosineAnnealingWarmRestarts",
        "CyclicLR",
        "PolynomialLR",
        "LinearLR",
        "ReduceLROnPlateau",
    }
)
_IN_STAGES = frozenset({"StepLR", "MultiStepLR", "ConstantLR"})
STILL = 0.1  # of the highest rate, half way to an end; a decay in epochs is far below


def describe_optimizers(
    around: Surroundings, names: Mapping[int, str], hidden: Iterable[HiddenThing]
) -> tuple[OptimizerInfo, ...]:
    """Every known optimizer against what the known models register."""
    known = {id(p) for _, model in around.models.values() for p in model.parameters()}
    known |= {id(t) for thing in hidden for _, t in thing.tensors()}
    return tuple(
        describe_optimizer(optimizer, name=name, names=names, known=known)
        for name, optimizer in around.optimizers.values()
    )


def describe_schedules(around: Surroundings) -> tuple[Schedule, ...]:
    """The factors of every LambdaLR."""
    found = [
        (name, entry)
        for name, scheduler in around.schedulers.values()
        for entry in list_factors(scheduler)
    ]
    return tuple(Schedule(name=name, base=base, factors=factors) for name, (base, factors) in found)


def find_restarted(around: Surroundings) -> Restarted | None:
    """The first LambdaLR that was made anew and set to a later epoch by hand, while the rate is
    still that of its first one: its constructor has set it.
    """
    for name, scheduler in around.schedulers.values():
        epoch, factors = getattr(scheduler, "last_epoch", 0), list_factors(scheduler)
        if getattr(scheduler, "_step_count", 0) != 1 or not factors or not 0 < epoch < SCHEDULED:
            continue
        rate = float(scheduler.optimizer.param_groups[0]["lr"])
        base, planned = factors[0][0], factors[0][0] * factors[0][1][epoch]
        if math.isclose(rate, base * factors[0][1][0]) and not math.isclose(rate, planned):
            return Restarted(name=name, epoch=epoch, rate=rate, planned=planned)
    return None


def find_collapse(around: Surroundings, steps: tuple[Step, ...]) -> float | None:
    """Rate after a hundred batches over the first one, if each batch steps a scheduler that
    only ever decays.
    """
    if len(steps) < 2 or not all(any(e.kind == "schedule" for e in step.events) for step in steps):
        return None
    for _, scheduler in around.schedulers.values():
        kinds = {type(s).__name__ for s in (scheduler, *getattr(scheduler, "_schedulers", ()))}
        optimizer = getattr(scheduler, "optimizer", None)
        rates = getattr(scheduler, "base_lrs", None)
        if kinds & _WITH_AN_END or optimizer is None or not rates or not rates[0]:
            continue
        run = list[float]()
        try:
            for _ in range(SCHEDULED):
                scheduler.step()
                run.append(float(optimizer.param_groups[0]["lr"]))
        except Exception:  # noqa: S112 - one with a total number of steps of its own
            continue
        if not kinds & _IN_STAGES and _ends_by_itself(run):
            continue
        highest = max(
            (max(factors) for _, factors in list_factors(scheduler)), default=1.0
        )  # a warm-up begins with a rate of 0
        return float(optimizer.param_groups[0]["lr"]) / (float(rates[0]) * (highest or 1.0))
    return None


def _ends_by_itself(rates: list[float]) -> bool:
    """Whether rates stay at their last value from some step on, as a cosine of so many batches
    does, and were still a tenth of the highest half way to it.
    """
    end = next(i for i in range(len(rates)) if len({*rates[i:]}) == 1)
    return end < len(rates) - 1 and rates[end // 2] > STILL * max(rates)


def find_compounding(around: Surroundings) -> Compounding | None:
    """The first scheduler of the user's own that multiplies the current rate by a factor below 1
    which rises with each step, as that of a warm-up does, which is meant for the base rate.

    Factors that fall with each step may be right: the ratio of one rate to the next of a cosine.
    """
    for name, scheduler in around.schedulers.values():
        is_own = not type(scheduler).__module__.startswith("torch.")
        if is_own and hasattr(scheduler, "get_lr") and getattr(scheduler, "base_lrs", None):
            factors = _read_own_factors(scheduler)
            if len(factors) == FACTORS and factors[0] < factors[-1] < 1:
                return Compounding(name=name, factors=factors)
    return None


def _read_own_factors(scheduler: Any) -> tuple[float, ...]:
    """What a scheduler multiplies the current rate by, in the steps to come; empty where twice the
    rate does not give twice the next one.
    """
    groups, epoch = scheduler.optimizer.param_groups, scheduler.last_epoch
    rates, base = [group["lr"] for group in groups], float(scheduler.base_lrs[0])
    found = []
    try:
        for further in range(1, FACTORS + 1):
            scheduler.last_epoch = epoch + further
            first, second = (_ask_rate(scheduler, rate) for rate in (base, 2 * base))
            if not first or abs(second - 2 * first) > SAME * abs(second):
                return ()
            found.append(first / base)
    except Exception:  # the user's own method, asked out of turn
        return ()
    finally:
        scheduler.last_epoch = epoch
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
    return tuple(found)


def _ask_rate(scheduler: Any, rate: float) -> float:
    """The first group's next rate, where every group has this one."""
    for group in scheduler.optimizer.param_groups:
        group["lr"] = rate
    return float(scheduler.get_lr()[0])


def list_factors(scheduler: Any) -> list[tuple[float, tuple[float, ...]]]:
    """Base rate and factors of the first hundred epochs, for each group of a LambdaLR."""
    found = []
    for base, function in zip(
        getattr(scheduler, "base_lrs", ()), getattr(scheduler, "lr_lambdas", ()), strict=False
    ):
        with contextlib.suppress(Exception):  # the user's own function, of epochs that may not come
            found.append((float(base), tuple(float(function(epoch)) for epoch in range(SCHEDULED))))
    return found


def weigh_classes(around: Surroundings, request: Request) -> tuple[tuple[float, float], ...]:
    """The share of each class among the targets and its weight, for the only loss with class
    weights, or with one for the positive labels.
    """
    known = (request.loss_fn, *(model for _, model in around.models.values()))
    binary = {id(m): m for m in known if isinstance(m, nn.BCEWithLogitsLoss)}
    if len(binary) == 1:
        return _weigh_positives(next(iter(binary.values())).pos_weight, request.targets)
    kinds = (nn.CrossEntropyLoss, nn.NLLLoss)
    weights = {id(m): m.weight for m in known if isinstance(m, kinds) and m.weight is not None}
    targets = request.targets
    is_labels = (
        isinstance(targets, Tensor) and not targets.is_floating_point() and has_values(targets)
    )
    if len(weights) != 1 or not is_labels or not targets.numel():
        return ()
    weight = next(iter(weights.values()))
    counts = [int((targets == k).sum()) for k in range(len(weight))]
    return tuple((n / targets.numel(), float(w)) for n, w in zip(counts, weight, strict=True))


def _weigh_positives(weight: Tensor | None, targets: Any) -> tuple[tuple[float, float], ...]:
    """The shares of labels 0 and 1 with their weights, 1 and `weight`."""
    if weight is None or weight.numel() != 1 or not isinstance(targets, Tensor):
        return ()
    if (
        not has_values(targets)
        or not targets.numel()
        or not bool(((targets == 0) | (targets == 1)).all())
    ):
        return ()
    share = float(targets.double().mean())
    return (1 - share, 1.0), (share, float(weight))
