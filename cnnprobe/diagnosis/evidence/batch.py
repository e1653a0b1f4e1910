"""What the values of the batch say of themselves, before any model sees them."""

import math
from dataclasses import dataclass

HALF = 0.5  # more by chance: one class is most of the samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """Outputs of a teacher beside the labels of the samples."""

    name: str  # "targets[1]", "teacher_outputs"
    labels: str
    agreement: float  # the share of the samples whose label has the greatest output
    chance: float  # the same where the outputs belong to other samples
    surety: float  # the mean of the greatest probability
    samples: int
    classes: int

    @property
    def is_astray(self) -> bool:
        """Whether it is sure of itself, and names the labels no more often than chance does."""
        doubt = 3 * math.sqrt(self.chance * (1 - self.chance) / self.samples)
        is_sure = self.surety > 0.5 * (1 + 1 / self.classes)
        return is_sure and self.agreement <= self.chance + doubt and self.chance < HALF


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """What was measured of inputs and targets."""

    # of targets that have the shape of the input: the shares that lie above it, and below it
    offsets: tuple[float, float] | None = None
    # of maps of class indices, where classes meet that are 2 apart or more: the places with a class
    # between them that is 1 or 2 pixels wide, those with a wider one, those without
    borders: tuple[int, int, int] | None = None
    teacher: Teacher | None = None
