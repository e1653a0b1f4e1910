"""Labels that say nothing about the images."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

LEAST = (
    2.0  # standard deviations above chance: labels without information reach it once in 40 times
)


def _related(strength: float) -> Mapping[str, Any]:
    import torch

    classes = labels(256)
    pattern = torch.nn.functional.one_hot(classes, 8).float()[:, None, :, None]
    return {"loader": loader(images(256, 1) + strength * pattern, classes)}


def sick() -> Mapping[str, Any]:
    """Labels in another order than the images."""
    return _related(0.0)


def healthy() -> Mapping[str, Any]:
    """One row is a little brighter, another one for each class."""
    return _related(1.0)


@data_rule(
    code="CP831", name="uninformative-labels", severity=Severity.INFO, examples=(sick, healthy)
)
def uninformative_labels(data: Data) -> Iterator[Finding]:
    """A simple model of small grey copies of the images cannot tell the classes better than chance.

    Why it matters: it may be a hard task, or the labels belong to other images: a list in another
    order, a shuffle of one of two lists.
    What to do: look at the contact sheet: do the labels fit?
    Known exceptions: classes that differ in fine detail or in colour alone, as many do.
    Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier
    probes", arXiv:1610.01644.
    """
    labels = data.training.labels
    if labels is None or labels.informative is None or labels.informative >= LEAST:
        return
    yield Finding(
        message=(
            f"a linear model of 8 x 8 grey copies is {labels.informative:.1f} standard deviations "
            f"above chance on images that it has not seen (less than {LEAST:g})"
        ),
        fix="look at the contact sheet, whether the labels fit the images",
    )
