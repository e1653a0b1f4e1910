"""Samples of the validation that the model is trained on."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Leak
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import dataset, images, labels, seed
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

# Of the validation, exact copies: CIFAR-10's test set has about 0.3% and is used all the same; with
# near duplicates 3.3% (Barz and Denzler 2020).
SHARE = {"index": 0.0, "file": 0.01, "content": 0.05, "sequence": 0.0, "row": 0.02, "window": 0.2}
_HOW = {
    "index": ("is a sample of the training data too", "are samples of the training data too"),
    "file": (
        "is a file with the same content as a training file",
        "are files with the same content as a training file",
    ),
    "content": (
        "shows an image that was read of the training data too",
        "show an image that was read of the training data too",
    ),
    "sequence": (
        "has a neighbour in the list that is in the training data and nearly equal",
        "have a neighbour in the list that is in the training data and nearly equal",
    ),
    "row": ("is a row of the training too", "are rows of the training too"),
    "window": (
        "is a window of a series that overlaps with one of the training",
        "are windows of a series that overlap with those of the training",
    ),
}
_VERBS = {"window": "overlaps with", "sequence": "stands beside"}
_BY_INDEX = "split the data once, by index, and give each part to one loader"
_FIXES = {
    "sequence": "split by video, scan or place: all frames of one go to one side",
    "row": "remove copies, or draw them from the training alone, after the split",
    "window": "split the series by time first, and cut the windows of each part after that",
}


def _split(overlap: int) -> Mapping[str, Any]:
    from torch.utils.data import DataLoader, Subset

    whole = dataset(images(64), labels(64))
    training, validation = Subset(whole, range(48)), Subset(whole, range(48 - overlap, 64))
    return {
        "loader": DataLoader(training, batch_size=8, shuffle=True, generator=seed()),
        "validation": DataLoader(validation, batch_size=8),
    }


def sick() -> Mapping[str, Any]:
    """Two parts of one data set that overlap."""
    return _split(overlap=6)


def healthy() -> Mapping[str, Any]:
    """Two parts that touch."""
    return _split(overlap=0)


@data_rule(
    code="CP806",
    name="train-validation-leak",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def train_validation_leak(data: Data) -> Iterator[Finding]:
    """The validation holds samples of the training.

    Why it matters: what was learnt by heart is counted as understood, so that the validation no
    longer shows overfitting.
    What to do: split by index, and by patient, scene or video where there are several images of
    one; remove copies first. Frames of one video on both sides are recognised by their place in the
    list, or the number in the name of their file: the sample beside is in the training, and far
    more alike than other ones of its class. Rows of a table are compared where several columns tell
    most rows apart; windows of a series by four steps in a row that are equal at any place.
    Known exceptions: a few copies, as public data sets have them (up to 1% by file, 5% by what the
    images show, 2% of rows), are info, and windows at the border of two parts (20%); so are
    pictures that are alike where the training draws each anew.
    Source: Barz and Denzler 2020, arXiv:1902.00423; Kapoor and Narayanan 2023, "Leakage and the
    reproducibility crisis", section 3.
    """
    grave = [leak for leak in data.leaks if not _is_slight(leak, data)]
    for leak in (*grave, *data.leaks)[:1]:
        pair, verb = leak.pairs[0], _VERBS.get(leak.by, "is")
        estimate = (
            f", about {leak.share:.0%} of all"
            if leak.by == "content"
            else f" ({leak.count / leak.among:.1%})"
        )
        first = (
            ""
            if leak.by == "index"
            else f": {pair.second.place} {verb} {pair.first.place} of the training"
        )
        yield Finding(
            severity=None if grave else Severity.INFO,
            message=(
                f"{leak.count:,} of {format_counted(leak.among, 'validation sample')} "
                f"{_HOW[leak.by][leak.count > 1]}{estimate}{first}"
            ),
            fix=_FIXES.get(leak.by, _BY_INDEX),
        )


def _is_slight(leak: Leak, data: Data) -> bool:
    """Whether so few samples are in both as public data sets have, or images that are drawn anew
    in each reading are alike by chance.
    """
    few = leak.share <= SHARE[leak.by] or (leak.by != "index" and leak.count < 2)
    drawn = data.training.trials.anew and not any(each.exact for each in leak.pairs)
    return few or drawn
