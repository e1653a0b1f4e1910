"""Batches whose images stand beside the labels of others."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.clues import Joined
from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted


def _sorted(together: bool) -> Mapping[str, Any]:
    import torch

    def collate(samples: list[Any]) -> Any:
        by_light = sorted(samples, key=lambda sample: float(sample[0].mean()))
        own = by_light if together else samples
        return torch.stack([x for x, _ in by_light]), torch.stack([y for _, y in own])

    return {"loader": loader(images(), labels(), collate_fn=collate)}


def sick() -> Mapping[str, Any]:
    """The collate sorts the images, and not the labels."""
    return _sorted(together=False)


def healthy() -> Mapping[str, Any]:
    """It sorts both."""
    return _sorted(together=True)


@data_rule(
    code="CP855", name="misaligned-batches", severity=Severity.ERROR, examples=(sick, healthy),
    explains=("uninformative-labels", "loss-not-decreasing"),
)  # fmt: skip
def misaligned_batches(data: Data) -> Iterator[Finding]:
    """The collate puts images beside the labels of other samples, or mixes images and labels in two
    orders.

    Why it matters: the labels are those of other images, and nothing can be learned from them.
    What to do: sort or shuffle the samples, (image, label), and take them apart afterwards.
    Known exceptions: reported only where each image of the first batch is found again in the data
    set; samples that are augmented by chance tell nothing. Of images that are mixed (mixup, cutmix)
    both samples are found again, and the weights of their labels compared. Nor does torch's own
    collate tell anything, which keeps the order.
    Source: torch.utils.data, "Working with collate_fn"; Zhang et al. 2018, "mixup",
    arXiv:1710.09412, equation 1.
    """
    for split in data.splits:
        joined = split.clues.joined
        if joined is not None and joined.wrong and joined.mixed:
            yield _judge_mixed(joined, split.name)
        elif joined is not None and joined.wrong:
            verb = "stands" if joined.wrong == 1 else "stand"
            yield Finding(
                message=(
                    f"{format_counted(joined.wrong, 'image')} of the {joined.samples} in the first "
                    f"batch of the {split.name} data {verb} beside the label of another sample"
                ),
                fix="collate_fn: sort the samples, then take images and labels apart",
            )


def _judge_mixed(joined: Joined, name: str) -> Finding:
    verb = "does" if joined.wrong == 1 else "do"
    return Finding(
        message=(
            f"{format_counted(joined.wrong, 'image')} of the {joined.samples} mixes of two classes "
            f"in the first batch of the {name} data {verb} not have the label of that mix: images "
            "and labels were mixed in two orders, or with two weights"
        ),
        fix="draw the order once: p = torch.randperm(len(x)); mix x with x[p], and y with y[p]",
    )
