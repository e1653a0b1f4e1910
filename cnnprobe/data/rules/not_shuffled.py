"""The same batches in each epoch."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, LoaderSettings
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import dataset, images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

LEFT = 0.02  # of the samples: a rest of a batch of 16 in a thousand is nothing


def sick() -> Mapping[str, Any]:
    """A sampler that makes its generator anew with one seed for each epoch."""
    import torch
    from torch.utils.data import DataLoader, Sampler

    class Reseeded(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(torch.randperm(32, generator=torch.Generator().manual_seed(0)).tolist())

        def __len__(self) -> int:
            return 32

    return {"loader": DataLoader(dataset(), batch_size=8, sampler=Reseeded())}


def healthy() -> Mapping[str, Any]:
    """A generator that goes on from epoch to epoch."""
    return {"loader": loader(images(), labels())}


@data_rule(code="CP818", name="not-shuffled", severity=Severity.WARNING, examples=(sick, healthy))
def not_shuffled(data: Data) -> Iterator[Finding]:
    """Every epoch has the same batches in the same order.

    Why it matters: the batches are not random samples, and each batch undoes what the one before
    taught.
    What to do: shuffle=True; a sampler of your own draws its permutation in __iter__ from a
    generator that it keeps. In the order of the data set, drop_last leaves out the same samples
    each time: reported from 2% on.
    Known exceptions: it is info with shuffle=False, as for data that is in random order already; a
    DistributedSampler gets its epoch by set_epoch.
    Source: Bottou 2012, "Stochastic Gradient Descent Tricks", section 4 (shuffle the examples).
    """
    loading = data.training.loading
    if loading.same_order:
        yield Finding(
            message=(
                f"{loading.sampler} gives the same order in two epochs, and not that of the data "
                "set"
            ),
            fix=(
                "draw the permutation in __iter__ from a generator that lives as long as the "
                "sampler"
            ),
        )
    elif loading.shuffled is False and (left := _count_left(loading)):
        yield Finding(
            severity=None if left > LEFT * (loading.samples or 0) else Severity.INFO,
            message=(
                f"the last {left:,} of {loading.samples:,} training samples are never trained on: "
                f"the batches come in the order of the data set ({loading.sampler}), and drop_last "
                "leaves out the same ones in each epoch"
            ),
            fix="DataLoader(..., shuffle=True), or drop_last=False",
        )
    elif loading.shuffled is False and (loading.batches or 0) > 1:
        yield Finding(
            severity=Severity.INFO,
            message=f"the training data comes in the order of the data set: {loading.sampler}",
            fix="DataLoader(..., shuffle=True)",
        )


def _count_left(loading: LoaderSettings) -> int:
    """Samples behind the last whole batch."""
    if not loading.samples or not loading.batches or not loading.batch_size:
        return 0
    return max(0, loading.samples - loading.batches * loading.batch_size)
