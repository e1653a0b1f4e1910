"""Data sets by name, read by torchvision's own classes as they lie in a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnprobe.errors import TargetError, UsageError


def open_dataset(
    kind: str,
    root: Path,
    *,
    train: bool = True,
    size: int | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Any:
    """The images as tensors from 0 to 1; where it is asked for resized and cropped to a square of
    `size`, and normalised.

    Raises:
        UsageError: there is no such folder.
        TargetError: torchvision is not installed, or finds no such data set there.
    """
    try:
        from torchvision import datasets, transforms
    except ImportError as error:
        raise TargetError(
            "torchvision is not installed, which reads the images",
            where=f"--dataset {kind}",
            fix="pip install cnnprobe[vision]",
        ) from error
    steps = [transforms.Resize(size), transforms.CenterCrop(size)] if size else []
    steps.append(transforms.ToTensor())
    if mean or std:
        steps.append(transforms.Normalize(mean or [0.0] * len(std), std or [1.0] * len(mean)))
    transform = transforms.Compose(steps)
    if not Path(root).is_dir():
        raise UsageError(
            f"there is no folder {str(root)!r}", where=f"--data {root}", fix="check the path"
        )
    try:
        if kind == "folder":
            return datasets.ImageFolder(root, transform=transform)
        made = datasets.CIFAR10 if kind == "cifar10" else datasets.CIFAR100
        return made(root, train=train, transform=transform)
    except (FileNotFoundError, RuntimeError, OSError) as error:
        raise TargetError(
            f"no data set: {str(error).splitlines()[0]}",
            where=f"--data {root}",
            fix="name one folder of images per class, with --dataset folder"
            if kind == "folder"
            else "name the folder that holds cifar-10-batches-py/ or cifar-100-python/",
        ) from error
