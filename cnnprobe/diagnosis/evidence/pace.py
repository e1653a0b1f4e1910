"""By what part of its size a step changes a weight."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from cnnprobe.diagnosis.evidence.evidence import Step, Values

UNMOVED = 1e-4  # relative change of the loss that counts as none
MANY = 20  # steps on one batch, after which a change has to be larger
CRAWLING = 1e-2  # relative change of the loss in that many steps that counts as next to none


def least_movement(count: int) -> float:
    """The relative change of the loss over some steps on one batch below which it is asked whether
    a higher learning rate moves it.
    """
    return CRAWLING if count >= MANY else UNMOVED


def relative_changes(
    steps: Sequence[Step],
    values: Mapping[str, Values],
    rate: float,
    names: Collection[str] | None = None,
) -> list[float]:
    """The changes of weights over their norms, for each step and each of `names` (all).

    Where rounding left no weight changed, what plain descent at `rate` would have changed.
    """
    seen = list(_ratios(steps, values, names, lambda step: step.changes))
    if seen:
        return seen
    wanted = _ratios(
        steps, values, names, lambda step: {n: rate * g.norm for n, g in step.gradients.items()}
    )
    return list(wanted) if any(step.changes for step in steps) else []


def _ratios(
    steps: Sequence[Step],
    values: Mapping[str, Values],
    names: Collection[str] | None,
    changed: Callable[[Step], Mapping[str, float]],
) -> Iterator[float]:
    for step in steps:
        for name, change in changed(step).items():
            value = values.get(name)
            is_meant = names is None or name in names
            if (
                is_meant
                and change > 0
                and value is not None
                and len(value.shape) > 1
                and value.norm
            ):
                yield change / value.norm
