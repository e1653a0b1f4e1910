"""Chosen classes of a data set, and images that are in memory."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from cnnprobe.errors import UnknownNameError, UsageError, suggest


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """A data set in two parts, each with `classes` and `targets` as torchvision's data sets have
    them.
    """

    name: str
    train: Any
    val: Any

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their labels."""
        return tuple(self.train.classes)


class ClassSubset(Dataset[tuple[Any, int]]):
    """Some images of a data set under new labels; has `classes`, `class_to_idx` and `targets` as
    the data set has.
    """

    def __init__(
        self, dataset: Any, indices: Sequence[int], targets: Sequence[int], classes: Sequence[str]
    ) -> None:
        self.dataset = dataset
        self.indices = list(indices)
        self.targets = list(targets)
        self.classes = list(classes)
        self.class_to_idx = {name: label for label, name in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        # The data set's own label is dropped, not mapped: a target_transform may have changed it.
        image, _ = self.dataset[self.indices[index]]
        return image, self.targets[index]


class ArrayImages(Dataset[tuple[Any, int]]):
    """Images that are in memory: uint8, shape (N, H, W, 3), with their labels, read as
    torchvision's CIFAR10 reads.
    """

    def __init__(
        self,
        images: np.ndarray,
        targets: Sequence[int],
        classes: Sequence[str],
        *,
        transform: Any = None,
    ) -> None:
        self.images = images
        self.targets = [int(target) for target in targets]
        self.classes = list(classes)
        self.class_to_idx = {name: label for label, name in enumerate(classes)}
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[index])
        return (self.transform(image) if self.transform else image), self.targets[index]


def class_subset(dataset: Any, classes: Sequence[str | int]) -> ClassSubset:
    """The images of `classes` alone, labelled 0 to k-1 in the order in which the classes are given.

    Args:
        dataset: CIFAR10, CIFAR100, ImageFolder, another `class_subset`: anything with `classes` and
            `targets`. It is not changed.
        classes: names or indices, mixed as you like.

    Raises:
        UnknownNameError: a class that the data set has not; the message names the nearest.
        UsageError: no class, or one twice.

    Source: the idiom of `torch.utils.data.Subset` with a `target_transform`, without changing the
    data set.

    >>> images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    >>> pets = ArrayImages(images, [0, 1, 2, 0], ["cat", "cow", "dog"])
    >>> chosen = class_subset(pets, ["dog", "cat"])
    >>> chosen.classes, chosen.indices, chosen.targets
    (['dog', 'cat'], [0, 2, 3], [1, 0, 1])
    """
    if not hasattr(dataset, "classes") or not hasattr(dataset, "targets"):
        raise UsageError(
            f"{type(dataset).__name__} has no `classes` and `targets` to choose by",
            where="class_subset(dataset, classes)",
            fix="give CIFAR10, CIFAR100, ImageFolder or a data set with these two attributes",
        )
    known = list(dataset.classes)
    chosen = [_class_index(name, known) for name in classes]
    if not chosen:
        raise UsageError(
            "no class was chosen", where="class_subset(dataset, classes)", fix=suggest("", known)
        )
    for index in chosen:
        if chosen.count(index) > 1:
            raise UsageError(
                f"class {known[index]!r} is chosen twice",
                where=f"classes {list(classes)}",
                fix="name each class once",
            )
    label = {old: new for new, old in enumerate(chosen)}
    old_labels = [int(target) for target in dataset.targets]
    indices = [i for i, old in enumerate(old_labels) if old in label]
    return ClassSubset(
        dataset,
        indices,
        [label[old_labels[i]] for i in indices],
        [known[index] for index in chosen],
    )


def _class_index(name: str | int, known: list[str]) -> int:
    if isinstance(name, str):
        if name not in known:
            raise UnknownNameError(
                f"no class named {name!r}",
                where=f"data set of {len(known)} classes",
                fix=suggest(name, known),
            )
        return known.index(name)
    index = operator.index(name)
    if isinstance(name, bool) or not 0 <= index < len(known):
        raise UnknownNameError(
            f"no class with the index {name}",
            where=f"data set of {len(known)} classes",
            fix=f"the indices are 0 to {len(known) - 1}",
        )
    return index
