"""The classes of the samples: those that were read, or all that the data set lists."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from torch.utils.data import WeightedRandomSampler

from cnnprobe.data.datasets import list_classes, list_targets
from cnnprobe.data.facts import Labels, Split
from cnnprobe.data.images import ImageTally
from cnnprobe.data.information import measure_chance
from cnnprobe.data.source import Source, choose_samples, count_samples


class LabelTallies(Protocol):
    """What was read of the labels."""

    images: ImageTally
    labels: Counter[int]
    uniform: int
    compared: int
    mixing: list[tuple[int, int]]  # samples of a batch, and its classes
    told: dict[int, int]


def describe_labels(source: Source, tallies: LabelTallies) -> Labels:
    """The classes as plain data."""
    listed = _list_drawn(source) if source.dataset is not None else None
    if listed is not None and any(
        i >= len(listed[1]) or listed[1][i] != label for i, label in tallies.told.items()
    ):
        listed = None  # what the loader gives is not what the data set lists
    counts = Counter(listed[0]) if listed is not None else tallies.labels
    drawn = listed[0] if listed is not None else []
    return Labels(
        counts=tuple(sorted(counts.items())),
        complete=listed is not None or source.complete,
        names=list_classes(source.dataset) if source.dataset is not None else (),
        uniform=tallies.uniform,
        kinds=_compare_mixing(tallies),
        batches=tallies.compared,
        ordered=bool(drawn) and drawn == sorted(drawn),
        chance=measure_chance(tallies.images.features),
        ranges=tallies.images.pixels.list_ranges(),
        drawn=_share_draws(source),
    )


def find_moved(splits: Sequence[Split]) -> tuple[tuple[int, str, str], ...]:
    """Labels that stand for other classes in the validation."""
    names = [split.labels.names if split.labels is not None else () for split in splits]
    if len(names) < 2 or not all(names):
        return ()
    return tuple((i, a, b) for i, (a, b) in enumerate(zip(*names, strict=False)) if a != b)


def _share_draws(source: Source) -> tuple[tuple[int, int, float], ...]:
    """The samples of each class, and its share of the draws of a sampler that weighs."""
    sampler = source.given.sampler if source.loader is not None else None
    if not isinstance(sampler, WeightedRandomSampler):
        return ()
    whole = list_targets(source.dataset)
    if whole is None or len(whole) != len(sampler.weights):
        return ()
    weights: Counter[int] = Counter()
    for label, weight in zip(whole, sampler.weights.tolist(), strict=True):
        weights[label] += weight
    total, counts = sum(weights.values()), Counter(whole)
    return tuple((k, counts[k], weight / total) for k, weight in sorted(weights.items()) if total)


def _list_drawn(source: Source) -> tuple[list[int], list[int]] | None:
    """The labels of the samples that an epoch draws, and those of the whole data set."""
    whole = list_targets(source.dataset)
    if whole is None or not _fits(source, whole):
        return None
    if source.loader is None:
        return whole, whole
    chosen = choose_samples(source.dataset, source.given.sampler)
    return None if chosen is None else ([whole[i] for i in chosen], whole)


def _fits(source: Source, whole: list[int]) -> bool:
    """Whether there is a label for each sample."""
    return len(whole) == len(source.dataset) and count_samples(source) is not None


def _compare_mixing(tallies: LabelTallies) -> float:
    """The classes of a batch, over those of one drawn from all that was read; 1 where none was."""
    total = sum(tallies.labels.values())
    shares = [n / total for n in tallies.labels.values()]
    expected = sum(sum(1 - (1 - share) ** size for share in shares) for size, _ in tallies.mixing)
    return sum(kinds for _, kinds in tallies.mixing) / expected if expected else 1.0
