"""Batches of one class each."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Labels, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

UNMIXED = 0.5  # of the classes that a batch of a shuffled set has
KINDS = 4  # classes, from which on that is said
FEWEST = 4  # batches
SHARE = 0.5  # of the batches, of one class
CHANCE = 0.05  # that a shuffled batch is of one class: more is no wonder


def _ordered(shuffle: bool) -> Mapping[str, Any]:
    return {"loader": loader(images(64), labels(64).sort().values, shuffle=shuffle)}


def sick() -> Mapping[str, Any]:
    """Sorted by class, and not shuffled."""
    return _ordered(shuffle=False)


def healthy() -> Mapping[str, Any]:
    """Shuffled."""
    return _ordered(shuffle=True)


@data_rule(
    code="CP817",
    name="single-class-batches",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "constant-targets",
        "constant-output",
        "loss-not-decreasing",
        "train-eval-gap",
        "not-shuffled",
    ),
)
def single_class_batches(data: Data) -> Iterator[Finding]:
    """Most batches of the training hold a single class.

    Why it matters: each batch teaches the model to answer with its own class and to forget the
    others; BatchNorm's statistics jump along.
    What to do: DataLoader(..., shuffle=True); for a stream, shuffle it in a buffer.
    Known exceptions: data in which one class is so frequent that this happens by chance.
    Source: Bengio 2012, "Practical Recommendations for Gradient-Based Training of Deep
    Architectures", section 3.1.1 (shuffling of examples), arXiv:1206.5533.
    """
    split = data.training
    labels = split.labels
    if labels is None or labels.batches < FEWEST or len(labels.counts) < 2:
        return
    if split.loading.batch_size is None and split.loading.samples is not None:
        return  # a data set, which we read in stretches: nobody has put it into batches
    total = sum(n for _, n in labels.counts)
    size = split.loading.batch_size or split.samples / max(1, split.batches)
    chance = sum((n / total) ** size for _, n in labels.counts)
    if labels.uniform / labels.batches > SHARE and chance < CHANCE:
        yield Finding(
            message=(
                f"{labels.uniform} of {labels.batches} batches hold one class, of "
                f"{len(labels.counts)} that there are"
            )
            + (", and the labels of the data set are sorted" if labels.ordered else ""),
            fix="DataLoader(..., shuffle=True)"
            if split.loading.shuffled is False
            else "mix the classes before they are put into batches",
        )
    elif _are_unmixed(split, labels):
        yield Finding(
            message=(
                f"a batch holds {labels.kinds:.0%} of the classes that a mixed one would "
                f"(less than {UNMIXED:.0%}), over {labels.batches} batches"
            ),
            fix="DataLoader(..., shuffle=True)"
            if split.loading.shuffled is False
            else "shuffle what is read in a buffer of several classes, or the shards when they are "
            "written",
        )


def _are_unmixed(split: Split, labels: Labels) -> bool:
    """Whether batches hold few classes, though no sampler of the user's puts them together."""
    sampler = split.loading.sampler
    own = bool(sampler) and split.loading.shuffled is None and sampler != "_InfiniteConstantSampler"
    return not own and 0 < labels.kinds < UNMIXED and len(labels.counts) >= KINDS
