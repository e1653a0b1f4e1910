"""Whether a collate that mixes two images mixes their labels with the same weights."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, default_collate

from cnnprobe.data.clues import Joined
from cnnprobe.data.columns import BatchColumn, join_samples
from cnnprobe.data.keeping import copy_dataset, kept_generators
from cnnprobe.data.roles import assign_roles, choose_main, choose_target
from cnnprobe.data.source import Batch, Source
from cnnprobe.data.tallies import number_of

FEWEST, MOST = 6, 64  # samples of a batch
SIDE = 32  # pixels of a side that are compared
CLOSE = 1e-3  # of the square of an image, that a mix of two leaves
COVERED = 0.98  # of the pixels of an image, where it is pasted of two
MIXED = 0.1  # of the weight: below that, the second image is not to be told
EXPLAINED = 0.8  # of the images of a batch, that are mixes of two of its samples
APART = 0.15  # of a label's weight: more than the smoothing of labels, or rounding, makes
Mix = tuple[int, int, float]  # two places in the batch, and the weight of the first


def compare_mixed(source: Source, batch: Batch, path: str | None) -> Joined | None:
    """The images of a batch, each as a mix of two samples of the data set, beside their labels;
    None where they are no such mixes (mixup, cutmix), and where the data set draws each anew.

    Args:
        source: the loader.
        batch: as the loader gave it, with its indices.
        path: of its images; None where there are none.

    Source: Zhang et al. 2018, "mixup", arXiv:1710.09412, equation 1; Yun et al. 2019, "CutMix",
    arXiv:1905.04899, equation 1.
    """
    given, indices = source.given, batch.indices
    if path is None or indices is None or not FEWEST <= len(indices) <= MOST:
        return None
    if not isinstance(given, DataLoader) or given.collate_fn is default_collate:
        return None
    images = next((c.values for c in batch.columns if c.path == path), None)
    if not isinstance(images, Tensor) or not images.is_floating_point() or not source.is_indexed:
        return None
    labels = _find_labels(batch.columns, len(indices))
    if not labels:
        return None
    with contextlib.suppress(Exception), kept_generators(given):
        dataset = copy_dataset(source.dataset)
        single = join_samples([dataset[i] for i in indices])
        roles = assign_roles(single)
        pictures, classes = choose_main(single, roles), choose_target(single, roles)
        if pictures is None or classes is None:
            return None
        own = torch.tensor([number_of(value) for value in classes.values])
        mixes = find_mixes(_thin(images), _thin(torch.stack(list(pictures.values))))
        return _judge(mixes, own, labels)
    return None


def _find_labels(columns: Sequence[BatchColumn], size: int) -> list[Tensor]:
    """Rows of the weights of classes, (N, K), or two lists of classes, (N,)."""
    given = [c.values for c in columns if isinstance(c.values, Tensor) and len(c.values) == size]
    for values in given:
        if values.dim() == 2 and values.is_floating_point() and values.shape[1] > 1:
            total = values.sum(1)
            mixed = int(((values > MIXED).sum(1) > 1).sum())
            if mixed and bool((values >= 0).all()) and torch.allclose(total, torch.ones(size)):
                return [values]
    pairs = [v for v in given if v.dim() == 1 and not v.is_floating_point()]
    return pairs if len(pairs) == 2 else []


def _thin(images: Tensor) -> Tensor:
    """Every k-th pixel, (N, C, P)."""
    high, wide = (max(1, side // SIDE) for side in images.shape[-2:])
    return images.detach().cpu().double()[..., ::high, ::wide].flatten(2)


def find_mixes(images: Tensor, singles: Tensor) -> list[Mix | None]:
    """Which two samples each image is a weighted mean of, or is pasted of; None of others.

    Args:
        images: shape (N, C, P).
        singles: the samples, of the same shape.
    """
    return [_find_weighted(x, singles) or _find_pasted(x, singles) for x in images]


def _find_weighted(image: Tensor, singles: Tensor) -> Mix | None:
    """X = w a + (1 - w) b, by least squares, for all pairs of samples at once."""
    rows, x = singles.flatten(1), image.flatten()
    rest = x - rows  # x - b = w (a - b)
    inner = rest @ rest.T
    own = inner.diagonal()
    # |a - b|^2 and (x - b)(a - b) = (x - b)(x - b) - (x - b)(x - a)
    apart = (own[:, None] + own - 2 * inner).clamp(min=1e-12)
    weight = ((own - inner) / apart).clamp(0, 1)  # [a, b]
    left = own - 2 * weight * (own - inner) + weight.square() * apart
    left.fill_diagonal_(float("inf"))
    place = int(left.argmin())
    a, b = divmod(place, len(rows))
    share = float(weight[a, b])
    if float(left[a, b]) > CLOSE * float(x.square().sum()):
        return None
    return (a, b, share) if share >= 0.5 else (b, a, 1 - share)


def _find_pasted(image: Tensor, singles: Tensor) -> Mix | None:
    equal = ((image - singles).abs() < 1e-6).all(1)  # (N, P)
    first = int(equal.sum(1).argmax())
    rest = equal & ~equal[first]
    second = int(rest.sum(1).argmax())
    covered = float((equal[first] | equal[second]).double().mean())
    return (first, second, 1 - float(rest[second].double().mean())) if covered >= COVERED else None


def _judge(mixes: Sequence[Mix | None], own: Tensor, labels: Sequence[Tensor]) -> Joined | None:
    known = [(k, mix) for k, mix in enumerate(mixes) if mix is not None]
    if len(known) < EXPLAINED * len(mixes):
        return None
    told = [(k, a, b, w) for k, (a, b, w) in known if own[a] != own[b] and w <= 1 - MIXED]
    wrong = sum(not _fits(k, w, int(own[a]), int(own[b]), labels) for k, a, b, w in told)
    return Joined(samples=len(told), wrong=wrong, mixed=True) if len(told) >= FEWEST // 2 else None


def _fits(k: int, weight: float, first: int, second: int, labels: Sequence[Any]) -> bool:
    """Whether the label at a place is that of a mix of two classes."""
    if len(labels) == 2:
        return {first, second} == {int(each[k]) for each in labels}
    classes = labels[0].shape[1]
    if max(first, second) >= classes:
        return True
    both = one_hot(torch.tensor([first, second]), classes).double()
    expected = weight * both[0] + (1 - weight) * both[1]
    return bool((labels[0][k].double() - expected).abs().max() <= APART)
