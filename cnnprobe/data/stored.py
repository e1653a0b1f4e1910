"""Samples beside the arrays that a data set keeps of them: read in another order than they were
written, or computed in bytes that wrap around.

It reads a few samples again, from copies of the data set.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from cnnprobe.data.clues import Reshaped, Wrapped
from cnnprobe.data.datasets import find_root
from cnnprobe.data.keeping import copy_dataset, kept_generators
from cnnprobe.data.source import Source, spread
from cnnprobe.recorder.values import leaves

SAMPLES = 4  # that are compared
LARGEST = 2**24  # bytes of an array that is widened
BYTE = 256
PROPORTIONAL = 0.999  # correlation: what is scaled by its dtype, as ToTensor does
FEWEST = 0.01  # of the values of the samples, that wrap
EXACT = 1e-3  # of a multiple; and of a standard deviation, of values that are the same
Arrays = list[tuple[str, NDArray[Any]]]


def find_reshaped(source: Source) -> Reshaped | None:
    """The part of the samples whose dims are those of another array in another order, while its
    values are in the same one: view or reshape stood where transpose was meant.

    The other array is what the collate was given, or what the data set keeps.
    """
    if not source.is_indexed or not len(source.dataset):
        return None
    chosen = spread(len(source.dataset), SAMPLES)
    with kept_generators(source.given):
        singles = _read(copy_dataset(source.dataset), chosen)
        joined = _join(source.given, singles)
    for sample, index in zip(singles, chosen, strict=True):
        for name, held in _list_held(source.dataset, index).items():
            for path, given in _list_arrays(sample):
                if _is_reshaped(given, held):
                    return Reshaped(
                        path=path, given=given.shape, held=held.shape, of=f"the data set's {name}"
                    )
    for path, given in _list_arrays(joined):
        for _, held in _list_arrays(singles[0]):
            if len(given) == len(singles) and _is_reshaped(given[0], held):
                return Reshaped(
                    path=path, given=given.shape[1:], held=held.shape, of="what the collate gets"
                )
    return None


def find_wrapped_bytes(source: Source) -> Wrapped | None:
    """The samples that come out otherwise, by multiples of 256, where the bytes that the data set
    keeps are given as wider numbers.
    """
    if not source.is_indexed or not len(source.dataset):
        return None
    chosen = spread(len(source.dataset), SAMPLES)
    twins = [copy_dataset(source.dataset) for _ in range(4)]
    name = _widen(twins[2], source.dataset, np.int32)
    if not name or name != _widen(twins[3], source.dataset, np.int64):
        return None
    with kept_generators(source.given):
        readings = [[_list_arrays(sample) for sample in _read(twin, chosen)] for twin in twins]
    # What takes the numbers for bytes, as PIL does with a mode, reads two widths otherwise.
    pairs = [
        (first, wide)
        for parts in zip(*readings, strict=True)
        for (_, first), (_, again), (_, wide), (_, wider) in zip(*parts, strict=True)
        if np.array_equal(first, again) and np.array_equal(wide, wider)
    ]
    shares = [_measure_wrapped(a, b) for a, b in pairs if a.shape == b.shape]
    share = max(shares, default=0.0)
    return Wrapped(name=name, share=share) if share >= FEWEST else None


def _read(dataset: Any, chosen: Sequence[int]) -> list[Any]:
    """Some samples, each from the same random numbers."""
    found = []
    for index in chosen:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 (what data sets draw from)
        random.seed(0)
        found.append(dataset[index])
    return found


def _join(given: Any, singles: list[Any]) -> Any:
    if not isinstance(given, DataLoader) or given.collate_fn is default_collate:
        return ()
    return given.collate_fn(list(singles))


def _list_arrays(sample: Any) -> Arrays:
    """The tensors and arrays in a sample, with their paths."""
    return [
        (path, np.asarray(leaf.detach() if isinstance(leaf, Tensor) else leaf))
        for path, leaf in leaves(sample)
        if isinstance(leaf, Tensor | np.ndarray)
    ]


def _list_held(dataset: Any, index: int) -> Mapping[str, NDArray[Any]]:
    """What the arrays of a data set hold of a sample."""
    root, at = find_root(dataset, index)
    return {
        name: np.asarray(value[at])
        for name, value in getattr(root, "__dict__", {}).items()
        if isinstance(value, Tensor | np.ndarray) and value.ndim > 2 and len(value) == len(root)
    }


def _is_reshaped(given: NDArray[Any], held: NDArray[Any]) -> bool:
    """Whether one has the dims of the other in another order, and its values in the same one."""
    dims, others = (tuple(n for n in each.shape if n > 1) for each in (given, held))
    if len(dims) < 2 or dims == others or sorted(dims) != sorted(others):
        return False
    one, other = (_standardise(each) for each in (given, held))
    return one is not None and other is not None and bool(np.abs(one - other).max() < EXACT)


def _standardise(array: NDArray[Any]) -> NDArray[np.float64] | None:
    values = array.astype(np.float64).reshape(-1)
    std = float(values.std())
    return (values - values.mean()) / std if std > 0 and np.isfinite(std) else None


def _widen(twin: Any, dataset: Any, dtype: Any) -> str:
    """Give a copy of a data set its bytes as wider numbers; the name of the array, "" where there
    is none.
    """
    root, _ = find_root(twin, 0)
    if root is find_root(dataset, 0)[0]:
        return ""
    for name, value in _list_bytes(root):
        wide = np.asarray(value).astype(dtype)
        root.__dict__[name] = torch.from_numpy(wide) if isinstance(value, Tensor) else wide
        return name
    return ""


def _list_bytes(root: Any) -> Iterator[tuple[str, Any]]:
    for name, value in list(getattr(root, "__dict__", {}).items()):
        is_bytes = isinstance(value, Tensor | np.ndarray) and value.dtype in (torch.uint8, np.uint8)
        if is_bytes and value.ndim > 1 and len(value) == len(root) and value.nbytes <= LARGEST:
            yield name, value


def _measure_wrapped(narrow: NDArray[Any], wide: NDArray[Any]) -> float:
    """The share of values that differ, where all do by multiples of the least difference and that
    is no other scale; else 0.
    """
    if narrow.size < BYTE or narrow.dtype.kind not in "iuf":
        return 0.0
    a, b = (each.astype(np.float64).reshape(-1) for each in (narrow, wide))
    apart = np.abs(b - a)
    some = apart[apart > EXACT * max(float(a.std()), 1e-12)]
    if not some.size or min(a.std(), b.std()) == 0:
        return 0.0
    if abs(float(np.corrcoef(a, b)[0, 1])) > PROPORTIONAL:
        return 0.0
    steps = some / some.min()
    is_whole = bool((np.abs(steps - steps.round()) < EXACT * steps).all())
    return float(some.size / a.size) if is_whole else 0.0
