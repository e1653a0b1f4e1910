"""A sampler that leaves most of the data set out."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import dataset, loader
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

SHARE = 0.1  # of the samples in an epoch
BATCHES = 10  # of an epoch: with more, an epoch may be short on purpose
NEVER = 0.5  # of the samples have a weight of zero
DRAWING = ("WeightedRandomSampler", "RandomSampler")


def _drawing(count: int) -> Mapping[str, Any]:
    from torch.utils.data import RandomSampler

    from cnnprobe.data.rules.material import images, labels

    given = images(200, 1, 4), labels(200)
    sampler = RandomSampler(dataset(*given), num_samples=count)
    return {"loader": loader(*given, shuffle=False, generator=None, sampler=sampler)}


def sick() -> Mapping[str, Any]:
    """num_samples is the size of a batch."""
    return _drawing(8)


def healthy() -> Mapping[str, Any]:
    """A quarter of the samples, others each time."""
    return _drawing(50)


@data_rule(code="CP848", name="unseen-samples", severity=Severity.WARNING, examples=(sick, healthy))
def unseen_samples(data: Data) -> Iterator[Finding]:
    """An epoch draws a small part of the data set, or most samples have no chance to be drawn.

    Why it matters: the model is trained on a few samples while the log counts epochs; what is never
    drawn is never learned.
    What to do: num_samples=len(dataset); it is the number of samples of an epoch, not that of a
    batch or of the classes.
    Known exceptions: an epoch of more than 10 batches, which may be short on purpose; subsets that
    are named by index.
    Source: torch.utils.data.WeightedRandomSampler, "num_samples (int): number of samples to draw";
    pytorch/pytorch issue 9171.
    """
    loading = data.training.loading
    drawn, size, batches = loading.samples, loading.size, loading.batches
    if loading.sampler not in DRAWING or not drawn or not size or not batches:
        return
    if drawn < SHARE * size and batches <= BATCHES:
        yield Finding(
            message=(
                f"an epoch draws {drawn:,} of {size:,} samples ({drawn / size:.1%}), in "
                f"{format_counted(batches, 'batch', 'batches')}"
            ),
            fix=f"{loading.sampler}(..., num_samples=len(dataset))",
        )
    if loading.draws is not None and loading.draws.zeros > NEVER * loading.draws.weights:
        yield Finding(
            message=(
                f"{loading.draws.zeros:,} of {loading.draws.weights:,} samples have the weight 0 "
                f"(more than {NEVER:.0%}): the sampler never draws them"
            ),
            fix="give each sample a weight above 0, 1 / count of its class",
        )
