"""A last batch of a single sample."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity


def _with(samples: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    return {"loader": loader(images(samples), labels(samples)), "model": model}


def sick() -> Mapping[str, Any]:
    """33 samples in batches of 8, and a BatchNorm1d."""
    return _with(33)


def healthy() -> Mapping[str, Any]:
    """34."""
    return _with(34)


@data_rule(
    code="CP829",
    name="last-batch-of-one",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def last_batch_of_one(data: Data) -> Iterator[Finding]:
    """The last batch of the training holds one sample.

    Why it matters: BatchNorm over one value per channel raises in train mode, at the end of the
    first epoch.
    What to do: DataLoader(..., drop_last=True), or another batch size.
    Known exceptions: it is info for a model without such a BatchNorm, and without a model.
    Source: torch.nn.functional.batch_norm raises "Expected more than 1 value per channel when
    training".
    """
    loading = data.training.loading
    if loading.last_batch != 1 or (loading.batch_size or 1) < 2:
        return
    layer = data.expected.batch_norm
    yield Finding(
        severity=None if layer else Severity.INFO,
        message=(
            f"{loading.samples:,} samples in batches of {loading.batch_size} leave a last batch "
            "of one"
        )
        + (f", of which '{layer}' gets one value per channel" if layer else ""),
        fix="DataLoader(..., drop_last=True)",
    )
