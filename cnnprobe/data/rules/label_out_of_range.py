"""Class labels that the model has no output for."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.expectation import Expectation
from cnnprobe.data.facts import Data, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import classifier, images, labels, loader
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

MARKS = (-100, -1, 255)  # what labels are called that are left out


def _with(label: int) -> Mapping[str, Any]:
    from torch import nn

    given = labels()
    given[7] = label
    return {
        "loader": loader(images(), given),
        "model": classifier(),
        "loss_fn": nn.CrossEntropyLoss(),
    }


def sick() -> Mapping[str, Any]:
    """Label 4 of a model with 4 outputs."""
    return _with(4)


def healthy() -> Mapping[str, Any]:
    """Label 3, and the label that the loss leaves out."""
    return _with(-100)


@data_rule(
    code="CP811",
    name="label-out-of-range",
    severity=Severity.ERROR,
    examples=(sick, healthy),
)
def label_out_of_range(data: Data) -> Iterator[Finding]:
    """Class labels below zero, or not below the number of the model's outputs.

    Why it matters: the loss raises on the first of them; on a GPU as a device-side assert, far from
    the place.
    What to do: widen the last layer, or map the labels to 0 ... classes - 1. A label that says "not
    known" goes to the loss as ignore_index. torchvision's detectors take 0 for the background:
    their labels start at 1.
    Known exceptions: the loss's ignore_index; without a model and a loss, labels are compared with
    the data set's own list of classes, and -1 and -100 may stand for what is not known.
    Source: torch.nn.CrossEntropyLoss, "class indices in the range [0, C)".
    """
    outputs = data.expected.outputs if data.expected.of_classes else None
    yield from _list_improbable(data)
    yield from _list_undetectable(data)
    for split in data.splits:
        limit, whose = outputs, "the model's outputs"
        if limit is None and split.labels is not None:
            limit, whose = len(split.labels.names) or None, "the data set's classes"
        marks = () if outputs is not None else (-100, -1)
        wrong = _list_wrong(split, limit, (data.expected.ignored, *marks))
        if wrong and limit is not None:
            total = sum(n for _, n in wrong)
            shown = ", ".join(str(label) for label, _ in wrong[:5])
            yield Finding(
                message=(
                    f"{format_counted(total, 'label')} of the {split.name} data "
                    f"{'is' if total == 1 else 'are'} outside of 0 to {limit - 1}, {whose}: "
                    f"{shown}"
                ),
                fix=_advise(wrong, limit, data.expected),
            )


def _advise(wrong: list[tuple[int, int]], limit: int, expected: Expectation) -> str:
    label = wrong[0][0]
    if len(wrong) == 1 and label in MARKS and expected.of_classes:
        return (
            f"if {label} means not known: ignore_index={label} in the loss, which leaves out "
            f"{expected.ignored} now"
        )
    return f"map the labels to 0 ... {limit - 1}, or give the model more outputs"


def _list_wrong(split: Split, limit: int | None, ignored: tuple[int, ...]) -> list[tuple[int, int]]:
    if split.labels is None or limit is None:
        return []
    given = split.labels.counts
    return [(label, n) for label, n in given if not 0 <= label < limit and label not in ignored]


def _list_improbable(data: Data) -> Iterator[Finding]:
    """Targets of a loss over probabilities outside of 0 to 1."""
    if not data.expected.of_probabilities:
        return
    for split in data.splits:
        for part in split.of("value", "multilabel", "class"):
            numbers = part.numbers
            if numbers is None or (numbers.low >= 0 and numbers.high <= 1):
                continue
            unknown = part.whole and numbers.low == -1 and numbers.high == 1
            yield Finding(
                message=(
                    f"{part.path} of the {split.name} data goes from {numbers.low:g} to "
                    f"{numbers.high:g}; {data.expected.loss} takes 0 to 1"
                ),
                fix="map -1, what is not known, to 0 or 1, or leave it out of the loss"
                if unknown
                else "bring the targets into [0, 1]",
            )


def _list_undetectable(data: Data) -> Iterator[Finding]:
    """Labels of objects that a detector of torchvision takes for the background, or has no output
    for.
    """
    outputs = data.expected.detected
    if outputs is None:
        return
    for split in data.splits:
        beside = {boxes.path for boxes in split.objects}
        for part in split.of("classes") if beside else ():
            if not part.path.endswith("labels']"):
                continue
            wrong = [(int(v), n) for v, n in part.values if not 1 <= v < outputs]
            if wrong:
                total = sum(n for _, n in wrong)
                shown = ", ".join(str(label) for label, _ in wrong[:5])
                yield Finding(
                    message=(
                        f"{format_counted(total, 'label')} of {part.path} of the {split.name} data "
                        f"{'is' if total == 1 else 'are'} outside of 1 to {outputs - 1}: {shown}; "
                        f"the model has {outputs} outputs, and takes 0 for the background"
                    ),
                    fix="number the classes from 1, with num_classes = classes + 1",
                )
