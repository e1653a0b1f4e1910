"""By what part of its size a step changes a weight."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from cnnprobe.diagnosis.evidence.evidence import Step, Values


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
