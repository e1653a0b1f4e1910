"""Labels that say nothing about the images."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

LEVEL = 0.05  # labels without information are taken for informative as often as that


def _related(strength: float) -> Mapping[str, Any]:
    import torch

    classes = labels(512)
    pattern = torch.nn.functional.one_hot(classes, 8).float()[:, None, :, None]
    return {"loader": loader(images(512, 1) + strength * pattern, classes)}


def sick() -> Mapping[str, Any]:
    """Labels in another order than the images."""
    return _related(0.0)


def healthy() -> Mapping[str, Any]:
    """One row is a little brighter, another one for each class."""
    return _related(0.25)


@data_rule(
    code="CP831", name="uninformative-labels", severity=Severity.INFO, examples=(sick, healthy)
)
def uninformative_labels(data: Data) -> Iterator[Finding]:
    """Simple models of small copies of the images tell the labels no better than shuffled ones.

    Why it matters: it may be a hard task, or the labels belong to other images: a list in another
    order, a shuffle of one of two lists.
    What to do: look at the contact sheet: do the labels fit?
    Known exceptions: classes that differ in fine detail alone; of fewer than 400 images, or 8 a
    class, nothing is said. Labels without information pass once in 20 times.
    Source: Ojala and Garriga 2010, "Permutation Tests for Studying Classifier Performance", JMLR
    11.
    """
    labels = data.training.labels
    if labels is None or labels.chance is None or labels.chance <= LEVEL:
        return
    yield Finding(
        message=(
            f"{labels.chance:.0%} of shuffled labels (more than {LEVEL:.0%}) are told as well as "
            "these by models of small copies, on images that they have not seen"
        ),
        fix="look at the contact sheet, whether the labels fit the images",
    )
