"""Whether a collate leaves each image beside its label, and the numbers of a label together."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from cnnprobe.data.clues import Joined, Transposed
from cnnprobe.data.columns import BatchColumn, join_samples, name_items
from cnnprobe.data.images import is_single
from cnnprobe.data.keeping import copy_dataset, kept_generators
from cnnprobe.data.roles import assign_roles, choose_main, choose_target
from cnnprobe.data.source import Batch, Source
from cnnprobe.data.tallies import number_of

FEWEST, MOST = 6, 32  # samples of the batch
NEARER = 0.3  # of the distance to the next image: augmented anew it is still nearest to itself
SIDE = 16  # pixels of a side that are compared


def compare_joined(
    source: Source, batch: Batch, path: str | None, target: str | None
) -> Joined | None:
    """The images of a batch, each found again in the data set, beside their labels; None where the
    collate is torch's, where not every image is found, and where a batch mixes its images.

    Args:
        source: the loader.
        batch: as the loader gave it, with its indices.
        path: of its images; None where there are none.
        target: of its labels; None where there are none.
    """
    given = source.given
    if path is None or target is None:
        return None
    if not isinstance(given, DataLoader) or given.collate_fn is default_collate:
        return None
    if not source.is_indexed or batch.indices is None or not FEWEST <= len(batch.indices) <= MOST:
        return None
    columns = {column.path: column for column in batch.columns}
    labels = [number_of(value) for value in columns[target].values]
    if _count_alike(batch.columns, labels) > 1:
        return None  # labels of two images that are mixed
    with contextlib.suppress(Exception), kept_generators(given):  # as try_again
        dataset = copy_dataset(source.dataset)
        single = join_samples([dataset[i] for i in batch.indices])
        roles = assign_roles(single)
        images, classes = choose_main(single, roles), choose_target(single, roles)
        if images is None or classes is None:
            return None
        own = [number_of(value) for value in classes.values]
        return _match(list(columns[path].values), list(images.values), labels, own)
    return None


def _count_alike(columns: Sequence[BatchColumn], labels: Sequence[int | None]) -> int:
    """The parts of a batch that hold these labels, in any order."""
    rows = [
        c.values.tolist() for c in columns if isinstance(c.values, Tensor) and c.values.dim() == 1
    ]
    return sum(sorted(row) == sorted(map(float, labels)) for row in rows if None not in labels)  # type: ignore[arg-type]


def _match(
    images: Sequence[Any], singles: Sequence[Any], labels: Sequence[int | None], own: Sequence[Any]
) -> Joined | None:
    if sorted(map(str, labels)) != sorted(map(str, own)):
        return None
    places = [_find_own(image, singles) for image in images]
    if None in places or len(set(places)) < len(places):
        return None
    wrong = sum(own[place] != label for place, label in zip(places, labels, strict=True))  # type: ignore[index]
    return Joined(samples=len(images), wrong=wrong)


def _find_own(image: Any, singles: Sequence[Any]) -> int | None:
    """Which of the samples an image shows; None where no sample is far nearer than the others."""
    if not isinstance(image, Tensor) or is_single(image):
        return None
    apart = torch.tensor([_measure(image, single) for single in singles])
    best, second = apart.topk(2, largest=False).values.tolist()
    return int(apart.argmin()) if best <= NEARER * second else None


def _measure(image: Tensor, single: Any) -> float:
    """How far a sample is from the upper left of an image, behind which padding may follow."""
    if not isinstance(single, Tensor) or single.dim() != image.dim():
        return float("inf")
    if any(a > b for a, b in zip(single.shape, image.shape, strict=True)):
        return float("inf")
    cut = image[tuple(slice(0, n) for n in single.shape)].float()
    down, right = (max(1, n // SIDE) for n in single.shape[-2:])
    apart = cut[..., ::down, ::right] - single[..., ::down, ::right].float()
    return float(apart.abs().mean())


def find_transposed(batch: Any) -> Transposed | None:
    """The part of a batch that is a list of vectors, of which each has a number of every sample, as
    `default_collate` joins lists of numbers; None where there is none.

    Args:
        batch: as the loader gave it: images of one size, and what stands beside them.
    """
    parts = list(name_items(batch))
    sizes = {len(part) for _, part in parts if isinstance(part, Tensor) and part.dim() > 2}
    for path, part in parts:
        if not isinstance(part, list | tuple) or len(part) < 2:
            continue
        shapes = {tuple(each.shape) if isinstance(each, Tensor) else () for each in part}
        if len(shapes) == 1 and any(shapes == {(size,)} for size in sizes if size > 1):
            return Transposed(path=path, places=len(part), samples=len(part[0]))
    return None
