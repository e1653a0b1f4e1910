"""Data sets in a folder: CIFAR-10, CIFAR-100, or one folder of images per class, read by
torchvision as they lie there.
"""

from pathlib import Path
from typing import Any

from cnnprobe.errors import TargetError

TRAINING = ("train", "training")
VALIDATION = ("val", "valid", "validation", "test")  # the first that is there counts
LAYOUTS = (
    "one folder of images per class, train/ and val/ of these, cifar-10-batches-py/ or "
    "cifar-100-python/"
)


def open_folder(root: Path) -> tuple[Any, Any]:
    """The training and the validation data set in a folder; None for a validation that is not
    there.

    Images come as the files have them, as Pillow images without a transform.

    Raises:
        TargetError: nothing that torchvision reads is there, or torchvision is not installed.
    """
    try:
        from torchvision import datasets
    except ImportError as error:
        raise TargetError(
            "torchvision is not installed, which reads folders of images",
            where=str(root),
            fix="pip install cnnprobe[vision]",
        ) from error
    try:
        for kind in (datasets.CIFAR10, datasets.CIFAR100):
            for base in (root, root.parent):
                if (
                    base / kind.base_folder in (root, root / kind.base_folder)
                    and (base / kind.base_folder).is_dir()
                ):
                    return _open_cifar(kind, base)
        training, validation = (_find(root, names) for names in (TRAINING, VALIDATION))
        if training is not None:
            return datasets.ImageFolder(training), _open(datasets.ImageFolder, validation)
        return datasets.ImageFolder(root), None
    except (FileNotFoundError, RuntimeError, OSError) as error:
        raise TargetError(
            f"no data set: {str(error).splitlines()[0]}",
            where=str(root),
            fix=f"it should hold {LAYOUTS}",
        ) from error


def _open_cifar(kind: Any, base: Path) -> tuple[Any, Any]:
    """Both parts, by the published checksums of their files."""
    try:
        return kind(base, train=True), kind(base, train=False)
    except RuntimeError as error:
        raise TargetError(
            f"a file of {kind.__name__} is missing, or has another checksum than the published one",
            where=str(base / kind.base_folder),
            fix=f"datasets.{kind.__name__}({str(base)!r}, download=True); for files of your own "
            "give a loader, as train.py:train_loader",
        ) from error


def _find(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _open(kind: Any, folder: Path | None) -> Any:
    return None if folder is None else kind(folder)
