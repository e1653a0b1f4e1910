"""A loader without a batch."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted


def _dropping(samples: int) -> Mapping[str, Any]:
    given = loader(images(samples, of=5), labels(samples), batch_size=8, drop_last=True)
    return {"loader": loader(), "validation": given}


def sick() -> Mapping[str, Any]:
    """Seven samples in batches of eight, and drop_last."""
    return _dropping(7)


def healthy() -> Mapping[str, Any]:
    """Eight samples."""
    return _dropping(8)


@data_rule(code="CP845", name="no-batches", severity=Severity.ERROR, examples=(sick, healthy))
def no_batches(data: Data) -> Iterator[Finding]:
    """The loader gives no batch at all.

    Why it matters: the loop runs over nothing and says nothing: the loss stays what it was, or is a
    division by zero.
    What to do: drop_last=False, a smaller batch, or look why the data set is empty.
    Known exceptions: none known.
    Source: torch.utils.data.DataLoader, "drop_last: set to True to drop the last incomplete batch".
    """
    for split in data.splits:
        if split.batches or split.samples or split.failed is not None or split.unread:
            continue
        loading = split.loading
        why = "it is empty"
        if loading.samples:
            why = f"{format_counted(loading.samples, 'sample')}"
            if loading.batch_size:
                why += f" in batches of {loading.batch_size}, and drop_last=True"
        yield Finding(
            message=f"the {split.name} loader gives no batch: {why}",
            fix="drop_last=False, or a smaller batch"
            if loading.samples
            else "look for the samples",
        )
