"""Judges a remedy by the losses of two runs, with it and without."""

import math
from collections.abc import Iterable, Sequence

from cnnprobe.diagnosis import Verdict
from cnnprobe.records.words import count_digits

BETTER = 0.02  # of the first loss, by which it has to be lower at the end
TIMES = 10.0  # the loss as it is, above which one with a fix is worse, however small both are
LEAST = 1e-3  # of the first loss, below which a fix has changed nothing
ROUNDING = 1e-5  # of the first loss, below which two losses are the same


def list_known(values: Iterable[float | None]) -> tuple[float, ...]:
    """The losses of the steps that had one."""
    return tuple(value for value in values if value is not None)


def are_finite(values: Sequence[float]) -> bool:
    """Whether there are losses, and all are numbers."""
    return bool(values) and all(map(math.isfinite, values))


def compare_losses(before: Sequence[float], after: Sequence[float]) -> Verdict:
    """Whether the loss ends lower, by more than `BETTER` of the first one.

    >>> compare_losses((2.3, 2.3), (2.3, 0.4)).value, compare_losses((2.3, 2.2), (2.3, 2.2)).value
    ('proven', 'useless')
    >>> compare_losses((1.0, 8e-07), (1.0, 0.0014)).value
    'worse'
    """
    if not after or not math.isfinite(after[-1]):
        return Verdict.WORSE if before and math.isfinite(before[-1]) else Verdict.USELESS
    first = abs(after[0])
    if not before or not math.isfinite(before[-1]):
        return Verdict.PROVEN if after[-1] < after[0] else Verdict.USELESS
    if after[-1] < before[-1] - BETTER * first and after[-1] < after[0]:
        return Verdict.PROVEN
    is_worse = after[-1] > before[-1] + BETTER * first or (
        before[-1] >= 0 and after[-1] > TIMES * max(before[-1], ROUNDING * first)
    )
    return Verdict.WORSE if is_worse else Verdict.USELESS


def rises(losses: Sequence[float]) -> bool:
    """Whether the loss ends higher than it began, by more than `BETTER` of the first one.

    >>> rises((0.22, 0.25)), rises((2.3, 2.31)), rises((0.22, 0.1))
    (True, False, False)
    """
    return len(losses) > 1 and losses[-1] > losses[0] + BETTER * abs(losses[0])


def doubles(losses: Sequence[float]) -> bool:
    """Whether the loss ends at twice what it began with: a fix that gives another loss, which
    cannot be compared with the one before, does not train either.

    >>> doubles((71.33, 270.0)), doubles((0.22, 0.3)), doubles((-1.0, -0.5))
    (True, False, False)
    """
    return len(losses) > 1 and losses[-1] > losses[0] + abs(losses[0])


def ends_as(wanted: str, before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the loss gets "lower" with a remedy, or ends as another ("other"), by more than a
    thousandth of the first one; or whether it "moved" at all. The lowest of each run counts: one
    step too far may be the last.

    >>> ends_as("other", (0.76, 0.7557), (0.76, 0.7557)), ends_as("lower", (2.3, 2.2), (2.4, 2.1))
    (False, True)
    >>> ends_as("moved", (0.76, 0.7557), (0.76, 0.7557)), ends_as("moved", (2.3, 2.2), (2.3, 2.19))
    (False, True)
    """
    if wanted == "moved":
        return tuple(after) != tuple(before[: len(after)])
    scale = max(abs(before[0]), 1e-30)
    is_lower = (min(after) - min(before)) / scale < -LEAST
    if wanted == "other":
        return abs(after[-1] - before[-1]) / scale > LEAST
    return not wanted or is_lower


def say_losses(before: Sequence[float], after: Sequence[float]) -> str:
    """The losses at the end of both runs.

    >>> say_losses((2.3, 2.3), (2.3, 0.41))
    'after 2 steps the loss is 0.41; as it is, 2.3'
    """
    if not after or not before:
        return "the loss is not known"
    was = before[min(len(before), len(after)) - 1]
    n = count_digits(after[-1], was)
    return f"after {len(after)} steps the loss is {after[-1]:.{n}g}; as it is, {was:.{n}g}"


def say_falls(before: Sequence[float], after: Sequence[float]) -> str:
    """From where to where both losses went, where they do not measure the same.

    >>> say_falls((1.386, 1.383), (1.46, 1.41))
    'the loss goes from 1.46 to 1.41 in 2 steps; as it is, it goes from 1.386 to 1.383'
    >>> say_falls((2.3023, 2.3023), (2.30542, 2.30511))
    'the loss goes from 2.3054 to 2.3051 in 2 steps; as it is, it stays at 2.302'
    """
    return f"the loss {_say_way(after)} in {len(after)} steps; as it is, it {_say_way(before)}"


def _say_way(losses: Sequence[float]) -> str:
    first, last = losses[0], losses[-1]
    n = count_digits(first, last)
    was, end = f"{first:.{n}g}", f"{last:.{n}g}"
    return f"stays at {was}" if was == end else f"goes from {was} to {end}"


def is_near(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether more steps may tell: both runs are finite, and neither has left its start upwards."""
    ends = (*before[-1:], *after[-1:])
    return bool(ends) and all(map(math.isfinite, ends)) and max(ends) < 1.5 * abs(after[0])


def runs_away(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the loss doubles with a remedy; not where it does without it too, and more so: the
    loss of a contrast with a queue rises while the queue fills.
    """
    return doubles(after) and not (doubles(before) and after[-1] < before[-1])
