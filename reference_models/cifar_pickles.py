"""CIFAR-10 in small: any 32x32 images written in its file format, and torchvision's own CIFAR10 to
read them.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10


class UncheckedCIFAR10(CIFAR10):
    """torchvision's CIFAR10 without the checksums of the real files, for what `write_cifar10`
    wrote.

    Reading a pickle runs code: use it for your own files only.

    Source: `torchvision/datasets/cifar.py`, where an md5 of None asks for the file alone.
    """

    train_list = [[name, None] for name, _ in CIFAR10.train_list]  # noqa: RUF012
    test_list = [[name, None] for name, _ in CIFAR10.test_list]  # noqa: RUF012
    meta = {**CIFAR10.meta, "md5": None}  # noqa: RUF012


def write_cifar10(
    root: str | Path, images: np.ndarray, labels: Sequence[int], classes: Sequence[str]
) -> Path:
    """The folder `root/cifar-10-batches-py`, with the images dealt out to the five training batches
    and the test batch.

    Args:
        root: what to give to `UncheckedCIFAR10`.
        images: uint8, shape (N, 32, 32, 3), N at least 6.
        labels: N indices into `classes`.
        classes: names.

    Source: the layout in "python version" of A. Krizhevsky's CIFAR-10 page: rows of 3072 bytes, all
    red ones first.
    """
    folder = Path(root) / CIFAR10.base_folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    for k, name in enumerate(names):
        batch = {"data": rows[k :: len(names)], "labels": list(labels[k :: len(names)])}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / CIFAR10.meta["filename"]).write_bytes(
        pickle.dumps({CIFAR10.meta["key"]: list(classes)})
    )
    return folder
