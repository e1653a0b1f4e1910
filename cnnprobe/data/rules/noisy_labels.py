"""Labels of which some are wrong by chance."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.clues import Noise
from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader, seed
from cnnprobe.diagnosis import Finding, Severity

NAMED = 3  # samples


def _labelled(wrong: float) -> Mapping[str, Any]:
    import torch

    classes = labels(512, 8)
    pattern = torch.nn.functional.one_hot(classes, 8).float()[:, None, :, None]
    drawn = torch.randint(0, 8, (512,), generator=seed(5))
    given = torch.where(torch.rand(512, generator=seed(6)) < wrong, drawn, classes)
    return {"loader": loader(0.3 * images(512, 1) + pattern, given)}


def sick() -> Mapping[str, Any]:
    """Three in ten labels are drawn by chance."""
    return _labelled(0.3)


def healthy() -> Mapping[str, Any]:
    """One in fifty is."""
    return _labelled(0.02)


@data_rule(
    code="CP875", name="noisy-labels", severity=Severity.INFO, examples=(sick, healthy),
    explains=("loss-not-decreasing",),
)  # fmt: skip
def noisy_labels(data: Data) -> Iterator[Finding]:
    """A simple model misses as many labels where it is surest as elsewhere: some labels are wrong.

    Why it matters: a network learns wrong labels by heart, and the validation gets worse while the
    training loss still falls.
    What to do: look at the samples that are named; label smoothing and early stopping help where
    labels cannot be mended.
    Known exceptions: reported only from 300 images and four classes on, about one wrong label in
    seven, and where wrong labels are of all other classes. Classes that a simple model of small
    copies does not tell are not judged.
    Source: Northcutt, Jiang and Chuang 2021, "Confident Learning", arXiv:1911.00068, section 3.
    """
    for split in data.splits:
        noise = split.clues.noise
        if noise is not None:
            yield Finding(
                message=(
                    f"of {noise.images} images of the {split.name} data a simple model misses "
                    f"{1 - noise.surest:.0%} of the labels where it is surest, and "
                    f"{1 - noise.whole:.0%} of all: about {1 - noise.half:.0%} are wrong by "
                    f"chance; {_name(noise)}"
                ),
                fix="look at these samples; label_smoothing=0.1 and early stopping soften it",
            )


def _name(noise: Noise) -> str:
    return ", ".join(
        f"{spot.place} has the label {spot.label} and looks like {guess}"
        for spot, guess in noise.examples[:NAMED]
    )
