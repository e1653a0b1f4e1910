"""What `python -m reference_models.train` is asked for, and the plan that it makes of it."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cnnprobe.errors import TargetError, UsageError

if TYPE_CHECKING:
    from reference_models.subsets import Splits


CACHE = Path("data")  # where the offline photos are kept, below the current directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is trained, and when it has learnt enough for more classes.

    `classes` in the order in which they are added, `start` of them at first, then `step` more at a
    time up to all. They are added when the validation accuracy is at least `threshold` and no class
    is below `class_threshold`. Without growth (`start` = all) `epochs` is what is run; with growth
    it is the most, and training ends when all is learnt.
    """

    classes: tuple[str, ...]
    start: int
    step: int = 2
    threshold: float = 0.95
    class_threshold: float = 0.8
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.001
    seed: int = 0


def make_parser() -> argparse.ArgumentParser:
    """The command line of the training."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_models.train",
        description="Train a small network on 32x32 images: crops of photos that need no "
        "download, digits, or your own.",
        epilog="exit codes: 0 trained, 1 --grow-to was not reached, 2 usage, 3 no usable data or "
        "device, 130 interrupted",
    )
    parser.add_argument(
        "--model",
        choices=["SimpleCNN", "CNNModel"],
        default="SimpleCNN",
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--classes",
        default=None,
        metavar="N|NAME,NAME",
        help="the first N classes, or these (default: all)",
    )
    parser.add_argument(
        "--grow-to",
        type=_positive,
        metavar="N",
        help="add classes up to N, each time when the present ones are learnt",
    )
    parser.add_argument(
        "--grow-by",
        type=_positive,
        default=2,
        metavar="N",
        help="classes added at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=_share,
        default=0.95,
        help="validation accuracy to grow or to end at (default: %(default)s)",
    )
    parser.add_argument(
        "--class-threshold",
        type=_share,
        default=0.8,
        help="and the least of each class (default: %(default)s)",
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--dataset",
        choices=["photos", "digits"],
        default="photos",
        help="offline images (default: %(default)s)",
    )
    data.add_argument(
        "--data", type=Path, metavar="DIR", help="your CIFAR-10, CIFAR-100 or image folder"
    )
    parser.add_argument(
        "--download", choices=["cifar10", "cifar100"], help="fetch it into the DIR of --data first"
    )
    parser.add_argument(
        "--epochs",
        type=_positive,
        help="how many, with --grow-to at most (default: 10, with --grow-to 60)",
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=64, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="write the trained state_dict there"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def open_splits(options: argparse.Namespace) -> "Splits":
    """The images that the options name.

    Raises:
        TargetError: torchvision or the package with the images is not installed.
        UsageError: --download without a folder.
    """
    try:
        from reference_models import data
    except ImportError as error:
        raise TargetError(
            f"{error.name} is not installed",
            where="reference_models.data",
            fix="pip install torchvision scikit-image scikit-learn tqdm",
        ) from error
    if options.data is not None:
        return data.splits_from(options.data, download=options.download)
    if options.download:
        raise UsageError(
            "--download needs a folder to fetch into", where="--download", fix="add --data DIR"
        )
    return data.digits() if options.dataset == "digits" else data.photos(CACHE)


def make_plan(options: argparse.Namespace, splits: "Splits") -> Plan:
    """What the options ask for, of these images.

    Raises:
        UsageError: fewer than two classes, or more than there are.
    """
    order, start = _order(options.classes, splits)
    goal = options.grow_to or start
    if not start <= goal <= len(splits.classes):
        raise UsageError(
            f"cannot grow from {start} to {goal} classes",
            where="--grow-to",
            fix=f"name a number from {start} to {len(splits.classes)}",
        )
    if goal < 2:
        raise UsageError(
            "one class alone can only be guessed",
            where="--classes",
            fix="train on 2 or more, or add --grow-to",
        )
    return Plan(
        classes=order[:goal],
        start=start,
        step=options.grow_by,
        threshold=options.threshold,
        class_threshold=options.class_threshold,
        epochs=options.epochs or (10 if goal == start else 60),
        batch_size=options.batch_size,
        seed=options.seed,
    )


def _order(wanted: str | None, splits: "Splits") -> tuple[tuple[str, ...], int]:
    """All classes, those to start with first, and how many these are."""
    from reference_models.subsets import class_subset

    known = splits.classes
    if wanted is None:
        return known, len(known)
    if wanted.isascii() and wanted.isdigit():
        count = int(wanted)
        if not 1 <= count <= len(known):
            raise UsageError(
                f"{count} classes of {splits.name}",
                where="--classes",
                fix=f"name a number from 1 to {len(known)}",
            )
        return known, count
    names = [part.strip() for part in wanted.split(",") if part.strip()]
    chosen = class_subset(splits.train, names).classes
    return (*chosen, *(name for name in known if name not in chosen)), len(chosen)


def find_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        TargetError: it is not there.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TargetError(
            f"device {name!r} cannot be used: {reason}", where="--device", fix="use --device cpu"
        ) from error
    return device
