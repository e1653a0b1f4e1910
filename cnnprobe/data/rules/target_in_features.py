"""A feature that is the target."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, loader, seed
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

NAMED = 5


def _table(given: bool) -> Mapping[str, Any]:
    import torch

    rows = torch.randn(96, 6, generator=seed())
    rows[:, 4] = (rows[:, 4] > 0).float()  # a feature of two values
    if given:
        rows[:, 2] = 2.0 * labels(96, 2) - 1
    return {"loader": loader(rows, labels(96, 2))}


def sick() -> Mapping[str, Any]:
    """The target was scaled and left among the features."""
    return _table(given=True)


def healthy() -> Mapping[str, Any]:
    """A feature of two values that does not go with the target."""
    return _table(given=False)


@data_rule(
    code="CP874", name="target-in-features", severity=Severity.WARNING, examples=(sick, healthy)
)
def target_in_features(data: Data) -> Iterator[Finding]:
    """A column of the inputs is the target, scaled or numbered otherwise.

    Why it matters: the model reads the answer, and has learned nothing for data without it.
    What to do: leave the column out of the features.
    Known exceptions: reported only from 32 rows of (N, F) on, with one value for each class of at
    least 5 rows, in their order, or with an affine function of a target of numbers. A feature that
    is the law of the target by itself, in made-up data, is reported too; a single feature is not.
    Source: Kaufman et al. 2012, "Leakage in Data Mining", ACM TKDD 6; Kapoor and Narayanan 2023,
    "Leakage and the reproducibility crisis", section 3.
    """
    for split in data.splits:
        path, columns = split.clues.features
        if columns:
            named = ", ".join(map(str, columns[:NAMED]))
            yield Finding(
                message=(
                    f"{format_counted(len(columns), 'column')} of {path} of the {split.name} data "
                    f"{'is' if len(columns) == 1 else 'are'} the target, scaled or numbered "
                    f"otherwise: {named}"
                ),
                fix=f"leave {'it' if len(columns) == 1 else 'them'} out of the features",
            )
