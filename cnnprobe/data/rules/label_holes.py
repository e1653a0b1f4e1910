"""Numbers between the labels that no sample has."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

PER_CLASS = 3  # samples on average, from which on labels are taken for classes
SAMPLES = 20  # of each class on average, from which on a missing one is believed


def _spread(factor: int) -> Mapping[str, Any]:
    return {"loader": loader(images(), labels() * factor)}


def sick() -> Mapping[str, Any]:
    """Classes 0, 7, 14, 21 of a larger data set, as that counts them."""
    return _spread(7)


def healthy() -> Mapping[str, Any]:
    """Classes 0 to 3."""
    return _spread(1)


@data_rule(code="CP813", name="label-holes", severity=Severity.WARNING, examples=(sick, healthy))
def label_holes(data: Data) -> Iterator[Finding]:
    """Between the labels there are numbers that no sample has.

    Why it matters: the model needs an output for each of them, and spends capacity on learning to
    avoid it.
    What to do: number the classes that you keep from 0 to k - 1.
    Known exceptions: it is info where fewer numbers are missing than there are classes: a class
    without a sample.
    Source: torch.nn.CrossEntropyLoss, "class indices in the range [0, C)".
    """
    split = data.training
    if split.labels is None:
        return
    used = [label for label, n in split.labels.counts if label >= 0 and n]
    total = sum(n for _, n in split.labels.counts)
    if len(used) < 2 or not (split.labels.complete or total >= SAMPLES * (max(used) + 1)):
        return
    if total < PER_CLASS * len(used):
        return  # amounts, such as the time steps of a diffusion, differ from sample to sample
    missing = sorted(set(range(max(used))) - set(used))
    if missing and missing != [0]:
        names = split.labels.names
        shown = ", ".join(
            f"{label} ({names[label]!r})" if label < len(names) else str(label)
            for label in missing[:5]
        )
        yield Finding(
            severity=None if len(missing) >= len(used) and not names else Severity.INFO,
            message=(
                f"{format_counted(len(used), 'class', 'classes')} with labels up to {max(used)}: "
                f"no sample has {shown}{' and others' if len(missing) > 5 else ''}"
            ),
            fix="number the classes from 0 to k - 1",
        )
