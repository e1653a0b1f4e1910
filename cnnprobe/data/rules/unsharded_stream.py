"""A stream that each worker gives as a whole."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels
from cnnprobe.diagnosis import Finding, Severity

REPEATED = 0.6  # of the images that are there once per worker; fewer where not all were read


def _streaming(sharded: bool) -> Mapping[str, Any]:
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            worker = get_worker_info()
            first, step = (worker.id, worker.num_workers) if worker and sharded else (0, 1)
            for i in range(first, 32, step):
                yield images(1, 3, 16, of=i)[0] + 0.3 * torch.randn(3, 16, 16), int(labels()[i])

    return {"loader": DataLoader(Stream(), batch_size=8, num_workers=2)}


def sick() -> Mapping[str, Any]:
    """Each of two workers gives all samples, with noise of its own."""
    return _streaming(sharded=False)


def healthy() -> Mapping[str, Any]:
    """Each gives its half."""
    return _streaming(sharded=True)


@data_rule(
    code="CP836", name="unsharded-stream", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("duplicate-images",),
)  # fmt: skip
def unsharded_stream(data: Data) -> Iterator[Finding]:
    """Each worker of an IterableDataset gives the same samples as the others.

    Why it matters: an epoch holds each sample once per worker; the validation counts each that many
    times.
    What to do: in __iter__, islice(samples, info.id, None, info.num_workers) with info =
    torch.utils.data.get_worker_info(); or split the list of files so.
    Known exceptions: recognised by workers whose samples come in one order, or by equal images;
    a stream that both shuffles and augments in each worker is not.
    Source: torch.utils.data.IterableDataset, "each worker process will have a different copy of the
    dataset object".
    """
    for split in data.splits:
        workers = split.loading.workers
        said = ""
        if split.trials.unsharded:
            said = (
                f"the first two of {workers} workers give the same samples of the {split.name} "
                "data in the same order"
            )
        elif _repeat(split):
            said = (
                f"{split.images.repeated:,} of {split.samples:,} {split.name} images repeat one "
                f"that another of {workers} workers gave: each gives all samples"
            )
        if said:
            yield Finding(
                message=said,
                fix="in __iter__: islice(samples, info.id, None, info.num_workers) with "
                "info = get_worker_info()",
            )


def _repeat(split: Split) -> bool:
    """Whether images are repeated as often as where each worker gives all, by other workers: those
    give the batches in turn.
    """
    workers, pairs = split.loading.workers, split.images.duplicates
    if workers < 2 or split.loading.size is not None or not pairs:
        return False
    often = REPEATED * (1 - 1 / workers) * split.samples
    other = sum(p.first.batch % workers != p.second.batch % workers for p in pairs)
    return split.images.repeated >= often and 2 * other > len(pairs)
