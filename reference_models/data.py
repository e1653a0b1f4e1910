"""Images for the reference models: torchvision's data sets and offline ones, chosen classes of
them, and their loaders.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder
from torchvision.datasets.utils import check_integrity
from torchvision.transforms import v2

from cnnprobe.errors import TargetError, UsageError
from reference_models.photos import offline_photos
from reference_models.subsets import ArrayImages, ClassSubset, Splits, class_subset

__all__ = [
    "ArrayImages",
    "ClassSubset",
    "Splits",
    "class_subset",
    "digits",
    "image_transform",
    "loaders",
    "offline_photos",
    "photos",
    "real_batch",
    "splits_from",
]

SIZE = 32  # pixels a side, what SimpleCNN and CNNModel take
VALIDATION = (
    "val",
    "valid",
    "validation",
    "test",
)  # names of a validation folder, the first that is there counts


def image_transform(*, resize: bool = False) -> v2.Compose:
    """From a PIL image to a float32 tensor in [-1, 1], shape (3, H, W); with `resize`, (3, 32, 32)
    of any image.

    Source: mean and standard deviation 0.5 as in PyTorch's tutorial "Training a classifier".
    """
    fit = [v2.Resize(SIZE, antialias=True), v2.CenterCrop(SIZE)] if resize else []
    return v2.Compose(
        [
            v2.ToImage(),
            *fit,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


def photos(root: str | Path) -> Splits:
    """The offline photo crops as two ImageFolders: 8 classes of 192 + 48 images; needs scikit-image
    on the first call.
    """
    return _folders(offline_photos(root), name="photos")


def digits() -> Splits:
    """scikit-learn's 1,797 handwritten digits, made 32x32 and three channels: classes "0" to "9".

    The last fifth is for validation, unshuffled: the set is ordered by writer, so its writers are
        new to the model.

    Raises:
        TargetError: scikit-learn is missing.

    Source: `sklearn.datasets.load_digits` (UCI "Optical Recognition of Handwritten Digits"), 8x8
    pixels of 0 to 16.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise TargetError(
            "the digits are scikit-learn's, and scikit-learn is not installed",
            where="reference_models.data.digits",
            fix="pip install scikit-learn",
        ) from error
    bunch = load_digits()
    grey = np.kron((bunch.images * (255 / 16)).astype(np.uint8), np.ones((1, 4, 4), dtype=np.uint8))
    images = np.repeat(grey[..., None], 3, axis=3)
    cut = len(images) * 4 // 5
    names = [str(digit) for digit in bunch.target_names]
    train, val = (
        ArrayImages(images[part], bunch.target[part], names, transform=image_transform())
        for part in (slice(cut), slice(cut, None))
    )
    return Splits(name="digits", train=train, val=val)


def splits_from(directory: str | Path, *, download: str | None = None) -> Splits:
    """The user's own data: CIFAR-10, CIFAR-100 or an image folder, whichever lies in `directory`.

    An image folder has one folder of images per class, or `train/` and `val/` (or `test/`) of
    these. Without `val/` the last fifth of each class, in order of the file names, is for
    validation. Images of other sizes are made 32x32.

    Args:
        directory: holds `cifar-10-batches-py/`, `cifar-100-python/` or the folders; also one of
            these two itself.
        download: "cifar10" or "cifar100" lets torchvision fetch (or unpack) that set into
            `directory` first.

    Raises:
        TargetError: nothing usable is there, a file is missing or damaged, or the download failed.
    """
    root = Path(directory).absolute()
    kinds: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
    if download is not None:
        _download(kinds[download], root)
    if not root.is_dir():
        raise TargetError("no such folder", where=str(root), fix="check the path given with --data")
    for name, kind in kinds.items():
        for base in (root, root.parent):
            if (base / kind.base_folder).is_dir() and base / kind.base_folder in (
                root,
                root / kind.base_folder,
            ):
                return _cifar(kind, base, name=name)
    return _folders(root, name=root.resolve().name)


def _cifar(kind: type[CIFAR10], root: Path, *, name: str) -> Splits:
    folder = root / kind.base_folder
    files = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    for filename, md5 in files:
        if not check_integrity(str(folder / filename), md5):
            state = "is not the published file" if (folder / filename).exists() else "is missing"
            raise TargetError(
                f"{kind.__name__}: {filename} {state}",
                where=str(folder),
                fix=f"get it again, or run with --download {name}",
            )
    train, val = (kind(root, train=part, transform=image_transform()) for part in (True, False))
    return Splits(name=name, train=train, val=val)


def _download(kind: type[CIFAR10], root: Path) -> None:
    try:
        kind(root, download=True)
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise TargetError(
            f"{kind.__name__} could not be downloaded: {reason}",
            where=kind.url,
            fix=f"put {kind.filename} into {root} yourself, "
            "or leave --data out to use the offline photos",
        ) from error


class _Folder(ImageFolder):
    """ImageFolder that passes over hidden folders such as .ipynb_checkpoints."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = sorted(
            entry.name
            for entry in Path(directory).iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )
        if not names:
            raise FileNotFoundError("no folder for a class")
        return names, {name: label for label, name in enumerate(names)}


def _open_image(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise TargetError(
            f"not a readable image: {error}", where=path, fix="remove the file or replace it"
        ) from error


def _folders(root: Path, *, name: str) -> Splits:
    val = next((root / part for part in VALIDATION if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or val is None:
        return _split_by_class(_folder(root), name=name)
    splits = Splits(name=name, train=_folder(root / "train"), val=_folder(val))
    if splits.train.classes != splits.val.classes:
        odd = sorted(set(splits.train.classes) ^ set(splits.val.classes))
        raise TargetError(
            f"classes in one of train/ and {val.name}/ only: {', '.join(odd)}",
            where=str(root),
            fix="give both the same folders",
        )
    return splits


def _folder(root: Path) -> _Folder:
    layout = (
        "one folder of images per class, or train/ and val/ of these, or "
        "cifar-10-batches-py/ or cifar-100-python/"
    )
    try:
        dataset = _Folder(root, transform=image_transform(resize=True), loader=_open_image)
    except (FileNotFoundError, PermissionError) as error:
        raise TargetError(
            f"no image folder: {str(error).splitlines()[0]}",
            where=str(root),
            fix=f"it should hold {layout}",
        ) from error
    if len(dataset.classes) < 2:
        raise TargetError(
            f"no image folder: {len(dataset.classes)} class folders",
            where=str(root),
            fix=f"it should hold {layout}",
        )
    return dataset


def _split_by_class(dataset: _Folder, *, name: str) -> Splits:
    parts: tuple[list[int], list[int]] = ([], [])
    for label, class_name in enumerate(dataset.classes):
        own = [i for i, target in enumerate(dataset.targets) if target == label]
        if len(own) < 2:
            raise TargetError(
                f"class {class_name!r} has {len(own)} image, too few to train and to validate",
                where=str(dataset.root),
                fix="add images",
            )
        cut = min(len(own) - 1, len(own) * 4 // 5) or 1
        parts[0].extend(own[:cut])
        parts[1].extend(own[cut:])
    train, val = (
        ClassSubset(dataset, part, [dataset.targets[i] for i in part], dataset.classes)
        for part in parts
    )
    return Splits(name=name, train=train, val=val)


def loaders(
    splits: Splits, *, classes: Sequence[str | int], batch_size: int, seed: int
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of (images, labels) of the chosen classes: the training images shuffled by `seed`,
    the validation ones in order.
    """
    train = DataLoader(
        class_subset(splits.train, classes),
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
    )
    return train, DataLoader(class_subset(splits.val, classes), batch_size=batch_size)


def real_batch(
    root: str | Path, n: int = 8, classes: Sequence[str | int] | None = None, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """`n` offline validation images, shape (n, 3, 32, 32), float32 in [-1, 1], and their labels,
    shape (n,), int64.

    Drawn by `seed`, so that the same call gives the same batch; the images are made in `root` on
    the first call.

    Args:
        root: as for `offline_photos`.
        n: how many, 1 to 48 per class.
        classes: names or indices; all eight if None. Labels are re-mapped as by `class_subset`.
        seed: another one draws other images.
    """
    val = photos(root).val
    chosen = class_subset(val, range(len(val.classes)) if classes is None else classes)
    if not 1 <= n <= len(chosen):
        raise UsageError(
            f"a batch of {n} images",
            where="real_batch(root, n)",
            fix=f"n is 1 to {len(chosen)} here",
        )
    loader = DataLoader(
        chosen, batch_size=n, shuffle=True, generator=torch.Generator().manual_seed(seed)
    )
    images, labels = next(iter(loader))
    return cast(Tensor, images), cast(Tensor, labels)
