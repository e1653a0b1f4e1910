"""Labels that begin at 1."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

SAMPLES = 7  # of each class on average: e**-7 is the chance that class 0 is there and none was read


def _from(first: int) -> Mapping[str, Any]:
    return {"loader": loader(images(64), labels(64) + first)}


def sick() -> Mapping[str, Any]:
    """Classes 1 to 4, as a table or MATLAB counts them."""
    return _from(1)


def healthy() -> Mapping[str, Any]:
    """Classes 0 to 3."""
    return _from(0)


@data_rule(
    code="CP812",
    name="labels-from-one",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("label-out-of-range", "label-holes"),
)
def labels_from_one(data: Data) -> Iterator[Finding]:
    """Class labels go from 1 to the number of classes, and none is 0.

    Why it matters: the last class has no output, or an output is wasted that the model must learn
    never to choose.
    What to do: subtract 1 where the labels are read.
    Known exceptions: data sets whose class 0 is a background that does not occur; samples too small
    to tell.
    Source: torch.nn.CrossEntropyLoss, "class indices in the range [0, C)".
    """
    split = data.training
    if split.labels is None:
        return
    counts = {label: n for label, n in split.labels.counts if label >= 0}
    total, classes = sum(counts.values()), len(counts)
    enough = split.labels.complete or total >= SAMPLES * (classes + 1)
    if enough and classes > 1 and sorted(counts) == list(range(1, classes + 1)):
        if split.labels.names and len(split.labels.names) > classes:
            return  # class 0 has a name, and just no sample
        yield Finding(
            message=f"the labels go from 1 to {classes}, of {total:,} none is 0",
            fix="subtract 1 from the labels where the data set reads them",
        )
