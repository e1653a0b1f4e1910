"""The means of a curve over stretches of its steps: exact, however long it becomes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

_MOST = 4096  # stretches; then neighbours are put together until half as many are left


class Stretch(NamedTuple):
    """Neighbouring points of a curve: their mean, and their squared distances from it, summed."""

    first: int  # steps
    last: int
    points: int
    mean: float
    squares: float
    low: float
    high: float


@dataclass(slots=True)
class Averages:
    """One stretch a point until there are many; then neighbours share one.

    >>> averages = Averages()
    >>> for step in range(3):
    ...     averages.add(step, float(step))
    >>> [(stretch.first, stretch.mean) for stretch in averages.stretches]
    [(0, 0.0), (1, 1.0), (2, 2.0)]
    """

    stretches: list[Stretch] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """One more point; one of the same step replaces it."""
        if self.stretches and self.stretches[-1].first == step:
            self.stretches.pop()
        self.stretches.append(Stretch(step, step, 1, value, 0.0, value, value))
        if len(self.stretches) > _MOST:
            width = 1
            while (step - self.stretches[0].first) // width >= _MOST // 2:
                width *= 2
            self.stretches = _join_neighbours(self.stretches, width)

    def rewind(self, step: int) -> None:
        """Forget what came at this step or later; a stretch that began before stays."""
        while self.stretches and self.stretches[-1].first >= step:
            self.stretches.pop()


def _join_neighbours(stretches: Sequence[Stretch], width: int) -> list[Stretch]:
    buckets = groupby(stretches, key=lambda stretch: stretch.first // width)
    groups = (list(bucket) for _, bucket in buckets)
    return [join(group) if len(group) > 1 else group[0] for group in groups]


def join(stretches: Sequence[Stretch]) -> Stretch:
    """Several neighbours as one.

    Source: Chan, Golub, LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances".

    >>> join([Stretch(0, 0, 1, 1.0, 0.0, 1.0, 1.0), Stretch(1, 1, 1, 3.0, 0.0, 3.0, 3.0)])
    Stretch(first=0, last=1, points=2, mean=2.0, squares=2.0, low=1.0, high=3.0)
    """
    count = sum(stretch.points for stretch in stretches)
    mean = sum(stretch.mean * (stretch.points / count) for stretch in stretches)
    squares = sum(
        stretch.squares + stretch.points * (stretch.mean - mean) ** 2 for stretch in stretches
    )
    return Stretch(
        first=stretches[0].first,
        last=stretches[-1].last,
        points=count,
        mean=mean,
        squares=squares,
        low=min(stretch.low for stretch in stretches),
        high=max(stretch.high for stretch in stretches),
    )
