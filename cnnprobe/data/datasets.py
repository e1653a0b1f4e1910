"""What a data set tells of itself without giving a sample: its labels, classes, file names and
transforms.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from cnnprobe.data.facts import Mispaired

REACHED = 2000  # objects among which transforms are looked for
_DEEPEST = 8  # wrappers around a data set
FEWEST_FILES, MOST_FILES = 4, 100_000  # of a list whose names are compared
SHARED = 0.8  # of the names: two lists of the same samples
_TARGETS = re.compile(r"mask|seg|label|target|annot|truth|(?<![a-z])gt(?![a-z])")
_ROLE_WORDS = re.compile(
    r"masks?|images?|img|segmentation|seg|labels?|targets?|annotations?|annot|groundtruth|"
    r"(?<![a-z])gt(?![a-z])"
)


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
        whole = not (
            given.dtype.is_floating_point if isinstance(given, Tensor) else given.dtype.kind == "f"
        )
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


def find_mispaired(dataset: Any) -> Mispaired | None:
    """Two lists of files that a data set keeps, one of masks or labels, whose names belong to other
    samples at the same place; else two lists of which nothing says what they are; None where there
    are none.
    """
    unnamed = None
    for each in unwrap(dataset):
        for pair in combinations(_list_paths(each), 2):
            images, targets = sorted(pair, key=lambda one: bool(_TARGETS.search(_words(one))))
            if _TARGETS.search(_words(images)) or images[1] == targets[1]:
                continue
            found = _compare_names(images[1], targets[1])
            if found is not None and _TARGETS.search(_words(targets)):
                return found
            same = set(images[1]) & set(targets[1]) and Path(images[1][0]).parent != Path()
            unnamed = unnamed or (None if same else found)  # pairs of the same files are meant so
    return replace(unnamed, is_target=False) if unnamed is not None else None


def _words(listed: tuple[str, list[str]]) -> str:
    return f"{listed[0]} {listed[1][0]}".lower()


def _list_paths(dataset: Any) -> Iterator[tuple[str, list[str]]]:
    """The lists of files among the attributes, and the columns of lists of pairs of files."""
    for name, given in (getattr(dataset, "__dict__", None) or {}).items():
        if not isinstance(given, list | tuple) or not FEWEST_FILES <= len(given) <= MOST_FILES:
            continue
        width = len(given[0]) if isinstance(given[0], list | tuple) else 0
        rows = [each if width else (each,) for each in given]
        if width > 4 or any(
            not isinstance(r, list | tuple) or len(r) != (width or 1) for r in rows
        ):
            continue
        for column in zip(*rows, strict=True):
            if all(isinstance(f, str) or hasattr(f, "__fspath__") for f in column):
                yield name, [str(f) for f in column]


def _compare_names(first: list[str], second: list[str]) -> Mispaired | None:
    for key in (_strip_stem, _read_number):
        ours = _list_keys(first, key)
        theirs = _list_keys(second, key) if ours else []
        if not theirs:
            continue
        if len(set(ours) & set(theirs)) < SHARED * min(len(ours), len(theirs)):
            continue
        wrong = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
        if wrong:
            places = min(len(ours), len(theirs))
            return Mispaired(
                first=first[wrong[0]], second=second[wrong[0]], count=len(wrong), places=places
            )
        return None
    return None


def _list_keys(names: list[str], key: Callable[[str], str]) -> list[str]:
    """A key of each name; none where one has no key, or the key of another."""
    found: dict[str, None] = {}
    for name in names:
        each = key(name)
        if not each or each in found:
            return []
        found[each] = None
    return list(found)


def _strip_stem(name: str) -> str:
    """The name of a file without its folder, its ending, and the words for masks and images."""
    return re.sub(r"[\W_]+", "", _ROLE_WORDS.sub("", _read_stem(name).lower()))


def _read_number(name: str) -> str:
    """The last number in the name of a file; "" where there is none."""
    found = re.findall(r"\d+", _read_stem(name))
    return found[-1].lstrip("0") or "0" if found else ""


def _read_stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]  # noqa: PTH119, PTH122 (a tenth of Path's time)


def list_transforms(dataset: Any) -> list[Any]:
    """The transforms of the images, in the order in which they are applied, composed ones taken
    apart.
    """
    for each in unwrap(dataset):
        named = [getattr(each, name, None) for name in ("transform", "transforms")]
        given = next((t for t in named if t is not None), None) or _find_transform(each)
        if given is not None:
            return list(islice(_take_apart(given, 0), 256))
    return []


def _find_transform(dataset: Any) -> Any:
    """The one attribute that is a transform, whatever its name; None where there are several: which
    is used is not known.
    """
    held = [v for v in (getattr(dataset, "__dict__", None) or {}).values() if _is_transform(v)]
    return held[0] if len(held) == 1 else None


def _is_transform(given: Any) -> bool:
    return type(given).__module__.startswith(("torchvision.transforms", "albumentations"))


def name_transforms(dataset: Any) -> frozenset[str]:
    """The class names of all transforms that a data set reaches, also behind objects of the
    user's.
    """
    found: set[str] = set()
    waiting: list[Any] = [dataset]
    seen: set[int] = set()
    while waiting and len(seen) < REACHED:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if _is_transform(each):
            found.add(type(each).__name__)
        if isinstance(each, list | tuple):
            waiting += [
                v for v in each[:64] if hasattr(v, "__dict__") and not isinstance(v, Tensor)
            ]
        held = (getattr(each, "__dict__", None) or {}).values()
        waiting += [v for v in held if isinstance(v, list | tuple) or hasattr(v, "__dict__")]
    return frozenset(found)


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
                mean, std = (
                    tuple(map(float, torch.as_tensor(part).reshape(-1)))
                    for part in (each.mean, each.std)
                )
            except (TypeError, ValueError):
                continue
            found.append((mean, std))
    return tuple(found)
