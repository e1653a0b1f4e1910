"""A label that stands for another class in the validation."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Exchange
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, made
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

KNOWN = 0.6  # of unseen images of the training that the simple model tells
LOST, FOUND = 0.5, 0.8  # of that, of the validation: as it is labelled, and after the exchange


def _folders(names: list[str]) -> Mapping[str, Any]:
    def make(i: int) -> Any:
        return images(1, 3, 8, of=i)[0], int(labels()[i % 32]) % len(names)

    training = made(32, make, classes=["bird", "cat", "cow", "dog"])
    return {"loader": training, "validation": made(32, lambda i: make(i + 32), classes=names)}


def sick() -> Mapping[str, Any]:
    """No bird in the validation's folders, so that each class moves up by one."""
    return _folders(["cat", "cow", "dog"])


def healthy() -> Mapping[str, Any]:
    """The same folders."""
    return _folders(["bird", "cat", "cow", "dog"])


@data_rule(
    code="CP820",
    name="moved-classes",
    severity=Severity.ERROR,
    examples=(sick, healthy),
)
def moved_classes(data: Data) -> Iterator[Finding]:
    """A label stands for one class in the training and for another in the validation.

    Why it matters: right answers count as wrong ones.
    What to do: give both the same folders (an empty one needs ImageFolder(..., allow_empty=True)),
    or one class_to_idx.
    Known exceptions: where the data sets do not name their classes it is a warning, and recognised
    by a simple model of small copies alone: it must tell 60% of the training, or of two classes of
    it, and of the classes that it takes for one another nearly as much after an exchange, and half
    of that without.
    Source: torchvision.datasets.ImageFolder numbers the folders that it finds, in the order of
    their names.
    """
    if data.moved:
        label, ours, theirs = data.moved[0]
        yield Finding(
            message=(
                f"label {label} is {ours!r} in the training and {theirs!r} in the validation; so "
                f"{'is' if len(data.moved) == 1 else 'are'} "
                f"{format_counted(len(data.moved), 'label')} in all"
            ),
            fix="give both data sets the same class folders, or the same class_to_idx",
        )
    elif (found := data.exchange) is not None and _is_plain(found):
        shown = ", ".join(f"{theirs} for {ours}" for theirs, ours in found.labels[:4])
        yield Finding(
            severity=Severity.WARNING,
            message=(
                f"a simple model of the training tells {found.own:.0%} of {found.images:,} "
                f"validation images of {len(found.labels)} classes, and {found.exchanged:.0%} when "
                f"their numbers are exchanged: the validation has {shown}"
            ),
            fix="sort the folders of both as numbers: as strings, 10 comes before 2"
            if _is_string_order(found, data)
            else "number the classes of both by one list, such as sorted(set(names))",
        )


def _is_string_order(found: Exchange, data: Data) -> bool:
    """Whether the classes of the validation are numbers in the order of strings: 0, 1, 10, 2."""
    count = len(data.training.labels.counts) if data.training.labels is not None else 0
    order = sorted(range(count), key=str)
    return all(theirs < count and order[theirs] == ours for theirs, ours in found.labels)


def _is_plain(found: Exchange) -> bool:
    """Whether the model is good enough to be believed, and the exchange makes up for what is
    missing.
    """
    return (
        found.known >= KNOWN
        and found.own <= LOST * found.known
        and found.exchanged >= FOUND * found.known
    )
