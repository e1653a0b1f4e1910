"""One label for all samples."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.data.words import is_one_class
from cnnprobe.diagnosis import Finding, Severity

FEWEST = 16  # samples
FEWEST_MASKS = 256  # where not all were read: rare objects are missing from a few by chance


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
    """All samples of the training have one label, one value or an empty mask.

    Why it matters: the model learns to give that answer to everything, with a loss near zero.
    What to do: look where the labels are read: a folder level too many, a column that is constant,
    a division of whole numbers.
    Known exceptions: it is info where the data set names a single class, and where the validation
    has that class and others, both as for detecting what is unusual; not with cross_entropy.
    Source: torchvision.datasets.ImageFolder takes the folders right below its root for the classes.
    """
    split = data.training
    yield from _list_targets(split)
    if split.labels is None or len(split.labels.counts) != 1:
        return
    ((label, total),) = split.labels.counts
    sure = split.labels.complete or split.complete or split.loading.shuffled
    if total >= FEWEST and sure:
        names = split.labels.names
        one = len(names) == 1 or is_one_class(data)
        of = f", of {len(names)} classes that the data set names" if len(names) > 1 else ""
        yield Finding(
            severity=Severity.INFO if one else None,
            message=f"all {total:,} labels are {label}{of}",
            fix="look where the labels are read",
        )


def _list_targets(split: Split) -> Iterator[Finding]:
    """Masks that are empty, and a single number that is asked for and never changes."""
    targets = split.of("class", "classes", "multilabel", "value", "mask", "boxes")
    for part in targets:
        empty = part.role == "mask" and dict(part.values).keys() == {0}
        if empty and split.samples >= (FEWEST if split.complete else FEWEST_MASKS):
            yield Finding(
                message=f"all {split.samples:,} masks {part.path} are 0 all over",
                fix="look where the masks are read: ToTensor divides by 255, .long() then gives 0",
            )
    numbers = targets[0].numbers if len(targets) == 1 and targets[0].role == "value" else None
    alone = len(split.of("image")) == 1
    if numbers is not None and alone and numbers.count >= FEWEST and numbers.low == numbers.high:
        yield Finding(
            message=f"all {numbers.count:,} values of {targets[0].path} are {numbers.low:g}",
            fix="look where the targets are read",
        )
