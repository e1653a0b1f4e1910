"""What a data set tells of itself without giving a sample: its labels, classes, file names and
transforms.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

_DEEPEST = 8  # wrappers around a data set


def list_targets(dataset: Any, depth: int = 0) -> list[int] | None:
    """The class of each sample, in order; None where the data set keeps no list of them, or not one
    a sample.
    """
    if depth > _DEEPEST:
        return None
    if isinstance(dataset, Subset):
        whole = list_targets(dataset.dataset, depth + 1)
        return None if whole is None else [whole[i] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [list_targets(each, depth + 1) for each in dataset.datasets]
        return (
            [t for part in parts for t in part or ()] if all(p is not None for p in parts) else None
        )
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return _read_targets(dataset.tensors[1], len(dataset))
    if getattr(dataset, "target_transform", None) is not None:
        return None  # what the loader gives differs from the list
    for name in ("targets", "labels", "_labels"):
        found = _read_targets(getattr(dataset, name, None), _length(dataset))
        if found is not None:
            return found
    return None


def _read_targets(given: Any, length: int | None) -> list[int] | None:
    if isinstance(given, Tensor | np.ndarray):
        whole = not (given.dtype.is_floating_point if isinstance(given, Tensor) else given.dtype.kind == "f")  # fmt: skip
        given = given.tolist() if given.ndim == 1 and whole else None
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != length:
        return None
    return list(given) if all(type(t) is int for t in given) else None


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def list_classes(dataset: Any) -> tuple[str, ...]:
    """The names of the classes in the order of their labels; () where the data set does not tell
    them.
    """
    for each in unwrap(dataset):
        classes = getattr(each, "classes", None)
        if isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes):
            return tuple(classes)
    return ()


def unwrap(dataset: Any) -> Iterator[Any]:
    """The data set, then what it wraps."""
    waiting: list[Any] = [dataset]
    seen: set[int] = set()
    while waiting and len(seen) < 64:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting.append(getattr(each, "dataset", None))
        waiting += getattr(each, "datasets", None) or ()


def find_root(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set that keeps a sample, and its index there, behind subsets and concatenations."""
    for _ in range(_DEEPEST):
        if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
            dataset, index = dataset.dataset, int(dataset.indices[index])
        elif isinstance(dataset, ConcatDataset):
            sizes = [_length(each) or 0 for each in dataset.datasets]
            part = 0
            while index >= sizes[part]:
                index, part = index - sizes[part], part + 1
            dataset = dataset.datasets[part]
        else:
            break
    return dataset, index


def find_file(dataset: Any, index: int) -> str:
    """The file of a sample; "" where the data set does not tell it."""
    try:
        root, at = find_root(dataset, index)
        for name in ("samples", "imgs", "images", "image_paths", "paths", "files", "filenames"):
            listed = getattr(root, name, None)
            if isinstance(listed, list | tuple) and at < len(listed):
                item = listed[at]
                item = item[0] if isinstance(item, tuple | list) and item else item
                if isinstance(item, str) or hasattr(item, "__fspath__"):
                    return str(item)
    except (IndexError, TypeError, ValueError):
        pass
    return ""


def list_transforms(dataset: Any) -> list[Any]:
    """The transforms of the images, in the order in which they are applied, composed ones taken
    apart.
    """
    for each in unwrap(dataset):
        for name in ("transform", "transforms"):
            given = getattr(each, name, None)
            if given is not None:
                return list(islice(_take_apart(given, 0), 256))
    return []


def _take_apart(given: Any, depth: int) -> Iterator[Any]:
    inner = (
        getattr(given, "transform", None) if type(given).__name__ == "StandardTransform" else None
    )
    parts = getattr(given, "transforms", None) if inner is None else [inner]
    if isinstance(given, torch.nn.Sequential):
        parts = list(given)
    if isinstance(given, list | tuple):
        parts = given
    if isinstance(parts, list | tuple) and depth < _DEEPEST:
        for part in parts:
            yield from _take_apart(part, depth + 1)
    else:
        yield given


def list_normalisations(dataset: Any) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
    """Mean and std of each Normalize among the transforms, in order."""
    found = []
    for each in list_transforms(dataset):
        if type(each).__name__ == "Normalize" and hasattr(each, "mean") and hasattr(each, "std"):
            try:
                mean, std = (tuple(map(float, torch.as_tensor(part).reshape(-1))) for part in (each.mean, each.std))  # fmt: skip
            except (TypeError, ValueError):
                continue
            found.append((mean, std))
    return tuple(found)
