"""Classes of the validation that the training does not have."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.data.words import is_one_class
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

PER_CLASS = 3  # samples of the training on average, from which on labels are taken for classes
OPEN = 5  # classes of each, from which on two sets of other classes may be meant so
VOID = 255
MASKED = 0.01  # of the pixels of the validation: a class of masks that the training should have
EXPECTED = 7.0  # samples of a class that should have been read: none by chance once in e**7


def _with(classes: int) -> Mapping[str, Any]:
    return {
        "loader": loader(images(64), labels(64, classes)),
        "validation": loader(images(of=9), labels(classes=4), shuffle=False),
    }


def sick() -> Mapping[str, Any]:
    """Three classes in training, four in validation."""
    return _with(3)


def healthy() -> Mapping[str, Any]:
    """Four in both."""
    return _with(4)


@data_rule(
    code="CP819",
    name="unseen-classes",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def unseen_classes(data: Data) -> Iterator[Finding]:
    """The validation has classes that no training sample has.

    Why it matters: the model never learns to name them, so that all of their samples count as
    wrong.
    What to do: split each class by itself (stratify=labels); a list that is sorted by class must be
    shuffled before it is cut.
    Known exceptions: classes so rare that the sample that was read may have missed them. It is info
    without cross_entropy where no class is in both, as for telling persons or species never seen,
    and where the training has one class, as for detecting what is unusual.
    Source: sklearn.model_selection.train_test_split, parameter stratify.
    """
    known, other = data.training, data.validation
    if other is not None:
        yield from _compare_masks(known, other, data.expected.ignored)
    if known.labels is None or other is None or other.labels is None:
        return
    counts, theirs = dict(known.labels.counts), dict(other.labels.counts)
    total = sum(theirs.values())
    unseen = [
        (label, n)
        for label, n in theirs.items()
        if label >= 0 and label not in counts and _should_be_there(known, n / total)
    ]
    if unseen and sum(counts.values()) >= PER_CLASS * len(counts):
        names = other.labels.names
        apart = not set(counts) & set(theirs) and min(len(counts), len(theirs)) >= OPEN
        meant = is_one_class(data) or (apart and not data.expected.of_classes)
        shown = ", ".join(
            f"{label} ({names[label]!r})" if label < len(names) else str(label)
            for label, _ in unseen[:5]
        )
        yield Finding(
            severity=Severity.INFO if meant else None,
            message=(
                f"{format_counted(len(unseen), 'class', 'classes')} of the validation, with "
                f"{sum(n for _, n in unseen):,} of {total:,} samples, "
                f"{'is' if len(unseen) == 1 else 'are'} not in the training: {shown}"
            ),
            fix="split each class by itself, or shuffle before you split",
        )


def _should_be_there(known: Split, share: float) -> bool:
    if known.labels is None:
        return False
    total = sum(n for _, n in known.labels.counts)
    return known.labels.complete or (bool(known.loading.shuffled) and total * share > EXPECTED)


def _compare_masks(known: Split, other: Split, ignored: int) -> Iterator[Finding]:
    """Values of masks that those of the training do not have."""
    masks = {part.path: part for part in known.of("mask")}
    for part in other.of("mask"):
        ours = masks.get(part.path)
        if ours is None or not known.complete or not (part.whole and ours.whole):
            continue
        total = sum(n for _, n in part.values)
        met = {value for value, _ in ours.values} | {ignored, VOID}
        unseen = [value for value, n in part.values if value not in met and n > MASKED * total]
        if unseen:
            shown = ", ".join(f"{value:g}" for value in unseen[:5])
            yield Finding(
                message=(
                    f"the masks {part.path} of the validation hold "
                    f"{format_counted(len(unseen), 'class', 'classes')} that no mask of the "
                    f"training has: {shown}"
                ),
                fix="number the classes of both in one way",
            )
