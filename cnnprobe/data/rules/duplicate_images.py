"""The same image twice in the training data."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.data.words import among
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

# of the samples: CIFAR-100's training set has some percent of near duplicates (Barz and Denzler
# 2020)
MANY = 0.1
FEW = 8  # samples; of fewer they may be equal on purpose
MOSTLY = 0.8  # of the repeated images that have another text: these are captions


def _with_copies(number: int) -> Mapping[str, Any]:
    given = images(64)
    given[32 : 32 + number] = given[:number]
    classes = labels(64)
    classes[32 : 32 + number] = classes[:number]
    return {"loader": loader(given, classes)}


def sick() -> Mapping[str, Any]:
    """A quarter of the images were copied twice."""
    return _with_copies(16)


def healthy() -> Mapping[str, Any]:
    """One of 64 was."""
    return _with_copies(1)


@data_rule(
    code="CP805", name="duplicate-images", severity=Severity.WARNING, examples=(sick, healthy)
)
def duplicate_images(data: Data) -> Iterator[Finding]:
    """The same image stands several times in the data.

    Why it matters: copies weigh more than others, land in training and validation when these are
    split at random, and where their labels differ one of them is wrong.
    What to do: keep one of each; where the labels differ, look which is right.
    Equal images of files that differ were put in the place of others, and a whole batch of equal
    images is one buffer that was returned for all of them.
    Known exceptions: a sample that a sampler draws again is none; up to 10% it is info, and so are
    near copies of the same label, which data that was augmented on disk has, and images with
    several captions; pictures of augmented data are compared as they come out.
    Source: Barz and Denzler 2020, "Do We Train on Test Data? Purging CIFAR of Near-Duplicates",
    arXiv:1902.00423.
    """
    for split in data.splits:
        images = split.images
        found = images.repeated + images.similar
        if images.repeats.equal_batches > 1:
            yield _tell_buffer(split)
        elif images.repeated == split.samples - 1 >= FEW:
            yield _tell_one(split)
        elif found:
            reason, fix = _explain(split)
            pair = images.duplicates[next(iter(images.repeats.replaced), 0)]
            yield Finding(
                severity=Severity.WARNING if _is_much(split) else Severity.INFO,
                message=(
                    f"{format_counted(found, 'image')} of {among(split)} "
                    f"{'repeats' if found == 1 else 'repeat'} an earlier one{_add_counts(split)}: "
                    f"{pair.second.place} is {pair.first.place}{reason}"
                ),
                fix=fix,
            )


def _is_much(split: Split) -> bool:
    """Whether it is more than public data sets have. Near copies of one label, as data that was
    augmented on disk has them, are meant so; so are the captions of one image.
    """
    images = split.images
    known = all(pair.second.index is not None for pair in images.duplicates)
    wrong = min(images.contradicting, images.similar)
    harmful = images.repeated + wrong - min(images.repeats.worded, images.repeated)
    return known and (harmful > MANY * max(1, split.samples) or bool(images.repeats.replaced))


def _add_counts(split: Split) -> str:
    images = split.images
    near, other, worded = images.similar, images.contradicting, images.repeats.worded
    said = f" ({near:,} of them to the eye, as re-encoded ones are)" if near else ""
    if other:
        said += f", {format_counted(other, 'of them has', 'of them have')} another label"
    if worded:
        verb = "of them has", "of them have"
        said += f", {format_counted(worded, *verb)} another text or image beside"
    return said


def _explain(split: Split) -> tuple[str, str]:
    """Why the first pair is equal, where the files tell, and what to do."""
    images = split.images
    if images.repeats.replaced:
        what = (
            f"{images.repeats.unreadable!r} cannot be read"
            if images.repeats.unreadable
            else "the two files show other pictures"
        )
        return f"; {what}, so the data set gave another sample in its place", (
            "list the files that can be read before the split; raise for others, and give no other "
            "sample in their place"
        )
    if images.repeats.worded >= MOSTLY * (images.repeated + images.similar):
        return "", "nothing, where an image has several texts or partners; split by image"
    return "", "keep one of each" + (
        ", and look which label is right" if images.contradicting else ""
    )


def _tell_one(split: Split) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        message=(
            f"all {split.samples:,} samples of the {split.name} data that were read have one and "
            "the same image, and not their own"
        ),
        fix=(
            "see what __getitem__ does with its index: whether it reads the image by it, and "
            "whether a loop or an assignment gives the index another value before"
        ),
        kind="one-image",
    )


def _tell_buffer(split: Split) -> Finding:
    repeats = split.images.repeats
    return Finding(
        severity=Severity.WARNING,
        message=(
            f"in {repeats.equal_batches} of {format_counted(repeats.batches, 'batch', 'batches')} "
            f"of the {split.name} data all images are equal to the bit, though their samples "
            "differ: __getitem__ may return one buffer, which the next sample overwrites"
        ),
        fix="return a copy of the buffer: buffer.clone(), or array.copy()",
    )
