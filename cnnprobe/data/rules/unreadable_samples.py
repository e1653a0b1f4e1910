"""Samples that raise when they are read."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Failed, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, made
from cnnprobe.data.words import name_samples
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted


def _photos(broken: int) -> Mapping[str, Any]:
    from torch.utils.data import DataLoader

    def make(i: int) -> Any:
        if i == broken:
            raise OSError("image file is truncated (12 bytes not processed)")
        return images(1, 3, 8, of=i)[0], i % 4

    return {"loader": DataLoader(made(16, make), batch_size=4)}


def sick() -> Mapping[str, Any]:
    """A file that was cut off while it was copied."""
    return _photos(broken=11)


def healthy() -> Mapping[str, Any]:
    """All can be read."""
    return _photos(broken=-1)


@data_rule(
    code="CP800", name="unreadable-samples", severity=Severity.ERROR, examples=(sick, healthy)
)
def unreadable_samples(data: Data) -> Iterator[Finding]:
    """The loader raises: a sample cannot be read, or samples cannot be joined to a batch.

    Why it matters: the training ends where it meets that sample, which may be hours after its
    start.
    What to do: remove or replace the file, or correct what the data set does with it. Where all
    samples raise, it is the data set or its transform.
    Known exceptions: images that cannot be joined are sizes-differ or channels-differ.
    Source: torch.utils.data.DataLoader raises what the data set raised, from a worker with its text
    alone.
    """
    for split in data.splits:
        failed = split.failed
        if failed is None or (failed.collating and _differs(split)):
            continue
        if not failed.count and failed.reason:
            what = ""
        elif failed.collating and not failed.count:
            what = "its samples cannot be joined to a batch"
        elif failed.count:
            what = (
                f"{failed.count} of {format_counted(failed.tried, 'sample')} that "
                f"{'was' if failed.tried == 1 else 'were'} tried "
                f"{'raises' if failed.count == 1 else 'raise'}: "
                f"{name_samples(failed.unreadable, failed.count)}"
            )
        else:
            what = "none of the samples that were tried one by one does so"
        said = failed.reason or failed.message
        yield Finding(
            message=f"the {split.name} loader raises {failed.kind}: {said}"
            + (f"; {what}" if what else ""),
            fix=failed.repair or _advise(failed),
        )


def _differs(split: Split) -> bool:
    """Whether the images have several shapes, as other rules say."""
    return any(len(part.shapes) > 1 for part in split.of("image", "mask"))


def _advise(failed: Failed) -> str:
    if failed.collating and not failed.count:
        return "return tensors, arrays or numbers of one shape, or give the loader a collate_fn"
    if not failed.count:
        return "read the message: it comes from the data set, its transforms or the collate_fn"
    if failed.count == failed.tried:
        return "correct what the data set or its transform does with every sample"
    these = "this sample" if failed.count == 1 else "these samples"
    them = "it" if failed.count == 1 else "them"
    return f"remove {these}, or correct what the data set does with {them}"
