"""Two views of a sample that are one and the same image."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Part, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels
from cnnprobe.diagnosis import Finding, Severity

_VIEWS = re.compile(r"view|aug|crop|anchor|positive|query|key|^x?[qk12ij]$|_[ijqk12]$")

_CONTRASTIVE = {"ColorJitter", "RandomGrayscale", "GaussianBlur", "RandAugment", "RandomSolarize"}


def _views(second: float) -> Mapping[str, Any]:
    given = images(16)
    changed = given.clone()
    changed[7] += second  # one sample of the two batches
    return {
        "loader": [([given[i : i + 8], changed[i : i + 8]], labels(16)[i : i + 8]) for i in (0, 8)]
    }


def sick() -> Mapping[str, Any]:
    """The augmentation was drawn once, and its result put into both views."""
    return _views(0.0)


def healthy() -> Mapping[str, Any]:
    """One of 16 samples has two views that differ."""
    return _views(0.1)


@data_rule(
    code="CP832", name="identical-views", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("constant-output", "loss-not-decreasing", "loss-at-init"),
)  # fmt: skip
def identical_views(data: Data) -> Iterator[Finding]:
    """Two parts of each sample are the same image, to the bit.

    Why it matters: contrastive learning compares two augmentations of a sample; equal ones agree
    whatever the model does, and it learns nothing.
    What to do: call the transform twice: return transform(image), transform(image).
    Known exceptions: an autoencoder, whose target is its input; so it is info where the two are not
    named as views and do not stand in a list of their own, and no transform changes colours, as
    contrastive learning does; and with a loss such as mse_loss. A data set whose class speaks of
    noise that it adds has a clean target.
    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
    Representations", arXiv:2002.05709, section 2.1 (two correlated views).
    """
    for split in data.splits:
        for part in split.of("image"):
            if not part.same_as:
                continue
            jittered = bool(_CONTRASTIVE & set(split.images.transforms))
            if split.clues.spoiling:
                yield _describe_denoising(split, part)
                continue
            sure = (jittered or _are_views(split, part)) and not data.expected.of_numbers
            yield Finding(
                severity=None if sure else Severity.INFO,
                message=(
                    f"{part.same_as} and {part.path} of the {split.name} data are the same image "
                    f"in all {split.samples:,} samples that were read"
                ),
                fix="draw the augmentation for each view: transform(image), transform(image)"
                if sure
                else "nothing, for an autoencoder; for two views, call the transform twice",
            )


def _describe_denoising(split: Split, part: Part) -> Finding:
    return Finding(
        message=(
            f"{part.same_as} and {part.path} of the {split.name} data are the same image in all "
            f"{split.samples:,} samples that were read, though the data set speaks of "
            f"{split.clues.spoiling}: the target is not the clean image"
        ),
        fix="return the image without the noise as the target",
    )


def _are_views(split: Split, part: Part) -> bool:
    """Whether they stand in one list beside other parts, or are named as views."""
    paths = (part.same_as, part.path)
    names = [(re.findall(r"\w+", path) or [""])[-1].lower() for path in paths]
    nested = paths[0].rpartition("[")[0] == paths[1].rpartition("[")[0] != ""
    others = len(split.parts) > len(split.of("image"))
    return all(_VIEWS.search(n) for n in names if not n.isdigit()) and (
        (nested and others) or not any(n.isdigit() for n in names)
    )
