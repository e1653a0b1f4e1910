"""What the examples of the rules are made of: small images, labels, data sets and loaders. Imports
torch only when called.
"""

import shutil
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

CLASSES = 4


def seed(number: int = 0) -> Any:
    """A generator of its own."""
    import torch

    return torch.Generator().manual_seed(number)


def images(n: int = 32, channels: int = 3, size: int = 8, *, of: int = 0) -> Any:
    """Normalised noise, shape (n, channels, size, size); another `of` is another data set."""
    import torch

    return torch.randn(n, channels, size, size, generator=seed(of))


def labels(n: int = 32, classes: int = CLASSES) -> Any:
    """Class indices, shape (n,), each class about equally often, in no order."""
    import torch

    return (torch.arange(n) % classes)[torch.randperm(n, generator=seed(1))]


def dataset(*tensors: Any) -> Any:
    """A TensorDataset; of images and labels where none are given."""
    from torch.utils.data import TensorDataset

    return TensorDataset(*(tensors or (images(), labels())))


def loader(*tensors: Any, **settings: Any) -> Any:
    """A shuffling DataLoader over the tensors, in batches of 8."""
    from torch.utils.data import DataLoader

    options = {"batch_size": 8, "shuffle": True, "generator": seed(2)} | settings
    return DataLoader(dataset(*tensors), **options)


def made(n: int, make: Callable[[int], Any], *, folder: str = "", **attributes: Any) -> Any:
    """A data set of `n` samples that `make(index)` makes, with further attributes; a folder of
    its own files goes with it.
    """
    from torch.utils.data import Dataset

    class Made(Dataset[Any]):
        def __init__(self) -> None:
            self.__dict__.update(attributes)

        def __len__(self) -> int:
            return n

        def __getitem__(self, index: int) -> Any:
            return make(index)

    dataset = Made()
    if folder:
        weakref.finalize(dataset, shutil.rmtree, folder, ignore_errors=True)
    return dataset


def detections(boxes: Sequence[Any], size: int = 32) -> list[Any]:
    """Batches of four images with the same boxes, as torchvision's detectors take them."""
    import torch

    given = torch.as_tensor(boxes, dtype=torch.float32)
    target = {"boxes": given, "labels": torch.ones(len(given), dtype=torch.int64)}
    noise = images(8, 3, size)
    return [(list(noise[i : i + 4]), [dict(target) for _ in range(4)]) for i in (0, 4)]


def masked(masks: Any, size: int = 16) -> list[Any]:
    """Batches of images with the given masks, shape (n, H, W)."""
    noise = images(len(masks), 3, size)
    return [(noise[i : i + 4], masks[i : i + 4]) for i in range(0, len(masks), 4)]


def blobs(n: int = 8, classes: int = 3, size: int = 16) -> Any:
    """Masks of rectangles of each class on a ground of zeros, shape (n, size, size), int64."""
    import torch

    masks = torch.zeros(n, size, size, dtype=torch.int64)
    for i in range(n):
        for label in range(1, classes):
            masks[i, 3 * label : 3 * label + 4, i % 8 : i % 8 + 6] = label
    return masks


def sentences(batches: int = 4, rows: int = 8) -> list[Any]:
    """Batches of rows of tokens from 1 to 98, (rows, 16), with zeros at the end of all but the
    first.
    """
    import torch

    lengths = torch.randint(4, 14, (batches, rows, 1), generator=seed(3))
    lengths[:, 0] = 16
    ids = torch.randint(1, 99, (batches, rows, 16), generator=seed(4))
    return list(ids.masked_fill(torch.arange(16) >= lengths, 0))


def classifier(outputs: int = CLASSES, channels: int = 3, size: int = 8) -> Any:
    """A linear model of so many classes."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, outputs))


def pairs(batches: Iterable[Any]) -> list[Any]:
    """Batches as a list, which is a loader too."""
    return list(batches)
