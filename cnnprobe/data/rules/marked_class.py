"""A mark in the images that tells the class."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity


def _marked(everywhere: bool) -> Mapping[str, Any]:
    classes = labels(96, 3)
    drawn = images(96, 3, 32)
    drawn[(classes == 1) | everywhere, :, 2:6, 24:30] = 3.0
    return {"loader": loader(drawn, classes)}


def sick() -> Mapping[str, Any]:
    """The images of one class have a bright spot in their corner."""
    return _marked(everywhere=False)


def healthy() -> Mapping[str, Any]:
    """All images have it."""
    return _marked(everywhere=True)


@data_rule(code="CP856", name="marked-class", severity=Severity.WARNING, examples=(sick, healthy))
def marked_class(data: Data) -> Iterator[Finding]:
    """Nearly all images of one class have an edge at the same place, and almost none of the others.

    Why it matters: the model learns the mark, a stamp, a ruler or a logo, and nothing of the
    object; without the mark it fails.
    What to do: look at the contact sheet. Crop or cover the place in the images of all classes.
    Known exceptions: reported only for a spot of at least about a sixteenth of a side and at most a
    seventh of the image, in 20 images of the class or more, where the rest of the image changes;
    flips and crops by chance move a mark, so the validation tells more. A lamp that a fixed camera
    sees lit in one class alone is found too. Nothing is said where a class has its own edges all
    over, as the pitches of spectrograms or aligned digits.
    Source: Lapuschkin et al. 2019, "Unmasking Clever Hans predictors", Nature Communications 10;
    Zech et al. 2018, "Variable generalization performance of a deep learning model to detect
    pneumonia in chest radiographs", PLOS Medicine 15.
    """
    for split in data.splits:
        for mark in split.clues.marks:
            left, top, right, bottom = (f"{100 * each:.0f}" for each in mark.box)
            yield Finding(
                message=(
                    f"{mark.share:.0%} of {mark.images} images of class {mark.label} in the "
                    f"{split.name} data have the same edge from {left} to {right}% of the width "
                    f"and {top} to {bottom}% of the height, and {mark.met:.0%} of {mark.others} "
                    "of the "
                    "other classes"
                ),
                fix=(
                    "look there on the contact sheet; crop or cover it in the images of all classes"
                ),
            )
