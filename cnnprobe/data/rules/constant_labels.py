"""One label for all samples."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

FEWEST = 16  # samples


def _with(classes: int) -> Mapping[str, Any]:
    return {"loader": loader(images(), labels(classes=classes))}


def sick() -> Mapping[str, Any]:
    """All are class 0."""
    return _with(1)


def healthy() -> Mapping[str, Any]:
    """There are two classes."""
    return _with(2)


@data_rule(
    code="CP814",
    name="constant-labels",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("constant-output", "constant-targets", "unseen-classes", "single-class-batches"),
)
def constant_labels(data: Data) -> Iterator[Finding]:
    """All samples of the training have one label.

    Why it matters: the model learns to give that answer to everything, with a loss near zero.
    What to do: look where the labels are read: a folder level too many, a column that is constant,
    a division of whole numbers.
    Known exceptions: it is info where the data set names a single class, as for detecting what is
    unusual.
    Source: torchvision.datasets.ImageFolder takes the folders right below its root for the classes.
    """
    split = data.training
    if split.labels is None or len(split.labels.counts) != 1:
        return
    ((label, total),) = split.labels.counts
    sure = split.labels.complete or split.complete or split.loading.shuffled
    if total >= FEWEST and sure:
        names = split.labels.names
        of = f", of {len(names)} classes that the data set names" if len(names) > 1 else ""
        yield Finding(
            severity=Severity.INFO if len(names) == 1 else None,
            message=f"all {total:,} labels are {label}{of}",
            fix="look where the labels are read",
        )
