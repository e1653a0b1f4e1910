"""Pairs of images whose labels contradict one another."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, loader, seed
from cnnprobe.diagnosis import Finding, Severity


def _paired(checked: bool) -> Mapping[str, Any]:
    import torch

    pictures, classes = images(48), torch.arange(48) % 2
    places = torch.randint(0, 48, (384, 2), generator=seed(4))
    alike = classes[places[:, 0]] == classes[places[:, 1]]
    meant = torch.rand(384, generator=seed(5)) < (0.0 if checked else 0.5)
    return {
        "loader": loader(
            pictures[places[:, 0]], pictures[places[:, 1]], (alike & ~meant).float()[:, None]
        )
    }


def sick() -> Mapping[str, Any]:
    """Half of the pairs that are called different are of one class."""
    return _paired(checked=False)


def healthy() -> Mapping[str, Any]:
    """None is."""
    return _paired(checked=True)


@data_rule(
    code="CP876", name="inconsistent-pairs", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("loss-not-decreasing",),
)  # fmt: skip
def inconsistent_pairs(data: Data) -> Iterator[Finding]:
    """Pairs of images are called different though other pairs say that both are of one class.

    Why it matters: a contrastive loss pulls such images together and pushes them apart.
    What to do: draw the second image of a different pair until its class is another.
    Known exceptions: reported only where the images themselves come again in several pairs,
    unchanged to the bit, and where the pairs called the same leave several groups. Pairs of another
    meaning, which of two is better, say, leave none.
    Source: "the same class" is transitive; Hadsell, Chopra and LeCun 2006, "Dimensionality
    Reduction by Learning an Invariant Mapping", section 2.1.
    """
    for split in data.splits:
        pairs = split.clues.pairs
        if pairs is not None:
            yield Finding(
                message=(
                    f"at least {pairs.wrong / pairs.different:.0%} of {pairs.different:,} pairs "
                    f"of the {split.name} data that are called different are of one class, by the "
                    f"pairs that are called the same ({pairs.same:g})"
                ),
                fix="draw the second image of a different pair from the other classes alone",
            )
