"""The same image twice in the training data."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.data.words import among
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

# of the samples: CIFAR-100's training set has some percent of near duplicates (Barz and Denzler
# 2020)
MANY = 0.1


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
    Known exceptions: a sample that a sampler draws again is none; up to 10% it is info; pictures of
    augmented data are compared as they come out.
    Source: Barz and Denzler 2020, "Do We Train on Test Data? Purging CIFAR of Near-Duplicates",
    arXiv:1902.00423.
    """
    for split in data.splits:
        images = split.images
        found = images.repeated + images.similar
        if not found:
            continue
        known = all(pair.second.index is not None for pair in images.duplicates)
        share = found / max(1, split.samples)
        pair = images.duplicates[0]
        twice = (
            f", {format_counted(images.contradicting, 'of them has', 'of them have')} another label"
            if images.contradicting
            else ""
        )
        alike = (
            f" ({images.similar:,} of them to the eye, as re-encoded ones are)"
            if images.similar
            else ""
        )
        yield Finding(
            severity=Severity.WARNING if known and share > MANY else Severity.INFO,
            message=(
                f"{format_counted(found, 'image')} of {among(split)} "
                f"{'repeats' if found == 1 else 'repeat'} an earlier one{alike}{twice}: "
                f"{pair.second.place} is {pair.first.place}"
            ),
            fix="keep one of each" + (", and look which label is right" if twice else ""),
        )
