"""Batches of every form into columns: one part of the samples each, with its path in the batch.

Tuples, lists, dicts, dataclasses, named tuples, lists of samples and the lists of detectors are
read. Nothing is consumed.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DEEPEST = 6  # levels of nesting that are followed


@dataclass(frozen=True, slots=True)
class BatchColumn:
    """One part of the samples of a batch: a tensor with the batch first, or a value a sample."""

    path: str
    values: Any  # Tensor of shape (n, ...), or a list of n

    def __len__(self) -> int:
        return len(self.values)

    @property
    def first(self) -> Any:
        """The value of the first sample that has one."""
        if isinstance(self.values, Tensor):
            return self.values[0]
        return next((value for value in self.values if value is not None), None)


def move_channels(column: BatchColumn) -> BatchColumn:
    """The column with the channels of its images before their height and width: a view."""
    if isinstance(column.values, Tensor):
        return BatchColumn(column.path, column.values.movedim(-1, -3))
    moved = [
        v.movedim(-1, -3) if isinstance(v, Tensor) and v.dim() > 2 else v for v in column.values
    ]
    return BatchColumn(column.path, moved)


def are_equal(a: BatchColumn | None, b: BatchColumn | None) -> bool:
    """Whether two parts hold the same images, to the bit."""
    if a is None or b is None or len(a) != len(b):
        return False
    pairs = zip(a.values, b.values, strict=True)
    if isinstance(a.values, Tensor) and isinstance(b.values, Tensor):
        pairs = iter([(a.values, b.values)])  # type: ignore[assignment]
    return all(
        isinstance(x, Tensor) and isinstance(y, Tensor) and x.dtype == y.dtype and torch.equal(x, y)
        for x, y in pairs
    )


def read_columns(batch: Any) -> list[BatchColumn]:
    """The columns of a batch as a loader gives it."""
    return [column for column in _walk(batch, "", 0) if len(column)]


def join_samples(samples: Sequence[Any]) -> list[BatchColumn]:
    """The columns of samples that were not joined to a batch."""
    leaves = [dict(_leaves(sample, "", 0)) for sample in samples]
    paths = dict.fromkeys(path for each in leaves for path in each)
    return [BatchColumn(path, [each.get(path) for each in leaves]) for path in paths]


def _walk(value: Any, path: str, depth: int) -> Iterator[BatchColumn]:
    """The columns of a batch, or of a part of it."""
    value = to_tensor(value)
    if isinstance(value, Tensor):
        if value.dim() > 0:
            yield BatchColumn(path, value)
    elif depth <= _DEEPEST:
        if isinstance(value, Sequence) and not isinstance(value, str) and _is_samples(value, depth):
            yield from (BatchColumn(path + c.path, c.values) for c in join_samples(value))
        else:
            for key, item in name_items(value):
                yield from _walk(item, path + key, depth + 1)


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """The parts of one sample by path."""
    value = to_tensor(value)
    if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        yield from _join_annotations(value, path)
        return
    items = list(name_items(value)) if depth <= _DEEPEST else []
    if not items:
        yield path, value
    for key, item in items:
        yield from _leaves(item, path + key, depth + 1)


def _join_annotations(annotations: list[Any], path: str) -> Iterator[tuple[str, Any]]:
    """What a list of annotations says of its objects, as COCO writes it: numbers and boxes, each
    joined to a tensor.
    """
    for key in annotations[0]:
        values = [each.get(key) for each in annotations]
        try:
            yield f"{path}[{key!r}]", torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError):
            continue


def to_tensor(value: Any) -> Any:
    """An array, a picture or a list of numbers as a tensor; anything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.str[0] != ">":
        return torch.from_numpy(np.ascontiguousarray(value))
    if type(value).__module__.startswith("PIL."):
        return read_picture(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list) and value and all(type(v) in (int, float) for v in value):
        return torch.tensor(value)
    return value


def read_picture(picture: Any) -> Tensor:
    """A Pillow image as torchvision's PILToTensor gives it: its own numbers, shape (C, H, W)."""
    if picture.mode in ("1", "I;16B", "F"):
        picture = picture.convert({"1": "L", "I;16B": "I", "F": "F"}[picture.mode])
    array = np.array(picture)
    tensor = torch.from_numpy(array.astype(np.int32) if array.dtype == np.uint16 else array)
    return tensor[None] if tensor.dim() == 2 else tensor.permute(2, 0, 1)


def name_items(value: Any) -> Iterator[tuple[str, Any]]:
    """The items of a container with the piece of the path that leads to each; none of anything
    else.
    """
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        yield from ((f".{name}", getattr(value, name, None)) for name in names)
    elif isinstance(value, tuple) and (as_dict := getattr(value, "_asdict", None)) is not None:
        yield from ((f".{name}", item) for name, item in as_dict().items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))


def _is_samples(items: Sequence[Any], depth: int) -> bool:
    """Whether a list holds a value for each sample, and is no structure of the batch."""
    if not items or hasattr(items, "_fields"):
        return False
    given = [to_tensor(item) for item in items]
    kinds = {_kind(item) for item in given}
    if len(kinds) > 1:
        return False
    (kind,) = kinds
    if kind == "tensor":
        return _is_list_of_images(given) if depth == 0 else _is_ragged(given)
    if kind == "sequence":
        return all(_is_mixed(item) for item in given) or (depth > 0 and _is_annotated(given))
    return kind in ("mapping", "scalar", "text", "none") or kind.startswith("object")


def _kind(item: Any) -> str:
    if isinstance(item, Tensor):
        return "tensor"
    if isinstance(item, Mapping):
        return "mapping"
    if isinstance(item, str | bytes):
        return "text"
    if isinstance(item, bool | int | float | np.generic):
        return "scalar"
    if item is None:
        return "none"
    return "sequence" if isinstance(item, list | tuple) else f"object {type(item).__name__}"


def _is_list_of_images(given: Sequence[Tensor]) -> bool:
    return len(given) > 2 and all(item.dim() == 3 for item in given) and _is_one_type(given)


def _is_ragged(given: Sequence[Tensor]) -> bool:
    """Tensors of one dtype and rank that are no batches: there are not as many of them as each is
    long.
    """
    if any(item.dim() == 0 for item in given):
        return True
    lengths = {len(item) for item in given}
    return _is_one_type(given) and (len(lengths) > 1 or given[0].dim() == 3 or len(given) > 2)


def _is_one_type(given: Sequence[Tensor]) -> bool:
    return len({(item.dtype, item.dim()) for item in given}) == 1


def _is_mixed(item: Sequence[Any]) -> bool:
    """Whether a tuple looks like a sample, an image with its label, say."""
    parts = [to_tensor(part) for part in item]
    forms = {(_kind(p), p.dim() if isinstance(p, Tensor) else 0) for p in parts}
    return len(parts) > 1 and len(forms) > 1 and not any(_is_list(part) for part in parts)


def _is_annotated(given: Sequence[Any]) -> bool:
    """Whether each sample has a list of objects, as COCO's have."""
    filled = [each for item in given for each in item]
    return bool(filled) and all(isinstance(each, Mapping) for each in filled)


def _is_list(part: Any) -> bool:
    return isinstance(part, list | tuple) and bool(part) and not isinstance(part[0], Mapping)
