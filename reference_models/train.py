"""Trains a reference model, on a growing number of classes if wished; `python -m
reference_models.train --help`.
"""

import argparse
import math
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn, optim

from cnnprobe.errors import ProbeError, TargetError, UsageError
from reference_models.models import CNNModel, SimpleCNN
from reference_models.options import Plan, find_device, make_parser, make_plan, open_splits

if TYPE_CHECKING:
    from reference_models.subsets import Splits

INTERRUPTED = 128 + signal.SIGINT  # exit code of a command that Ctrl-C ended
LOOKED_AT = 256  # images of each split, before the training


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one epoch came to: mean loss and accuracies in [0, 1], the training ones in train mode,
    while it learnt.
    """

    number: int
    loss: float
    accuracy: float
    validation: float
    per_class: dict[str, float]
    learnt: bool


def train_epoch(
    model: nn.Module, loader: Iterable[Any], loss_fn: nn.Module, optimizer: optim.Optimizer
) -> tuple[float, float]:
    """Mean loss and accuracy, in [0, 1], of one pass over `loader`, in train mode, with one
    optimizer step a batch.

    Args:
        model: gives class scores, shape (N, classes); its batches are moved to its device.
        loader: yields (images, labels); wrap it in `tqdm` for a progress bar.
        loss_fn: the mean loss of (scores, labels).
        optimizer: of the model's parameters.
    """
    model.train()
    device = next(model.parameters()).device
    loss_sum, hits, seen = 0.0, 0, 0
    for images, labels in loader:
        x, y = images.to(device), labels.to(device)
        optimizer.zero_grad()
        scores = model(x)
        loss = loss_fn(scores, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(y)
        hits += int((scores.argmax(dim=1) == y).sum())
        seen += len(y)
    return loss_sum / seen, hits / seen


@torch.no_grad()
def count_hits(model: nn.Module, loader: Iterable[Any], classes: int) -> tuple[Tensor, Tensor]:
    """How many images of each class were recognised and how many there were, two int64 tensors of
    shape (classes,).

    In eval mode; each module's mode is afterwards what it was.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    device = next(model.parameters()).device
    hits, seen = torch.zeros(classes, dtype=torch.int64), torch.zeros(classes, dtype=torch.int64)
    try:
        for images, labels in loader:
            predicted = model(images.to(device)).argmax(dim=1).cpu()
            hits += torch.bincount(labels[predicted == labels], minlength=classes)
            seen += torch.bincount(labels, minlength=classes)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return hits, seen


def accuracy_per_class(
    model: nn.Module, loader: Iterable[Any], classes: Sequence[str]
) -> dict[str, float]:
    """Name of each class to its accuracy in [0, 1], in eval mode; NaN for a class without an image
    in `loader`.
    """
    hits, seen = count_hits(model, loader, len(classes))
    return _shares(hits, seen, classes)


def _shares(hits: Tensor, seen: Tensor, classes: Sequence[str]) -> dict[str, float]:
    pairs = zip(classes, hits.tolist(), seen.tolist(), strict=True)
    return {name: hit / count if count else math.nan for name, hit, count in pairs}


def widen_head(model: nn.Module, classes: int) -> nn.Linear:
    """The model's last Linear layer, replaced in place by one with `classes` outputs that keeps the
    old rows.

    The old classes keep their scores; the new rows are initialised as nn.Linear does. The
    parameters are new objects: build the optimizer again (`adam(model)`).

    Raises:
        UsageError: the model has no Linear layer, or `classes` is fewer than it has.

    >>> model = SimpleCNN(2)
    >>> old = model.fc2.weight
    >>> torch.equal(widen_head(model, 5).weight[:2], old), model.fc2.out_features
    (True, 5)
    """
    linears = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name
    ]
    if not linears:
        raise UsageError(
            "the model has no Linear layer to widen",
            where=type(model).__name__,
            fix="give a model that ends in nn.Linear",
        )
    name, old = linears[-1]
    if classes < old.out_features:
        raise UsageError(
            f"cannot widen {old.out_features} classes to {classes}",
            where=f"module {name!r}",
            fix="name more classes",
        )
    new = nn.Linear(
        old.in_features,
        classes,
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight[: old.out_features] = old.weight
        if old.bias is not None:
            new.bias[: old.out_features] = old.bias
    new.train(old.training)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    return new


def adam(model: nn.Module, learning_rate: float = 0.001) -> optim.Adam:
    """Adam over all parameters of the model. Source: Kingma and Ba 2015, algorithm 1,
    arXiv:1412.6980 (0.001 is theirs).
    """
    return optim.Adam(model.parameters(), lr=learning_rate)


def train(model: nn.Module, splits: "Splits", plan: Plan) -> Iterator[Epoch]:
    """One Epoch after another, each when it has been trained; `model` starts with `plan.start`
    outputs and grows with the plan.

    Give the same seed to `torch.manual_seed` before building the model, and all numbers repeat on
    the same machine.
    """
    from tqdm import tqdm

    from reference_models.data import loaders

    loss_fn = nn.CrossEntropyLoss()
    known, optimizer = plan.start, adam(model, plan.learning_rate)
    growing = plan.start < len(plan.classes)
    classes = plan.classes[:known]
    train_loader, val_loader = loaders(
        splits, classes=classes, batch_size=plan.batch_size, seed=plan.seed
    )
    for number in range(1, plan.epochs + 1):
        # `disable=None`: no bar where stderr is not a terminal.
        with tqdm(
            train_loader, desc=f"epoch {number}", unit="batch", leave=False, disable=None
        ) as batches:
            loss, accuracy = train_epoch(model, batches, loss_fn, optimizer)
        hits, seen = count_hits(model, val_loader, known)
        validation, per_class = int(hits.sum()) / int(seen.sum()), _shares(hits, seen, classes)
        learnt = validation >= plan.threshold and min(per_class.values()) >= plan.class_threshold
        yield Epoch(
            number=number,
            loss=loss,
            accuracy=accuracy,
            validation=validation,
            per_class=per_class,
            learnt=learnt,
        )
        if not (growing and learnt):
            continue
        if known == len(plan.classes):
            return
        known = min(known + plan.step, len(plan.classes))
        widen_head(model, known)
        optimizer = adam(model, plan.learning_rate)
        classes = plan.classes[:known]
        train_loader, val_loader = loaders(
            splits, classes=classes, batch_size=plan.batch_size, seed=plan.seed + number
        )


def look_at_data(splits: "Splits", plan: Plan, model: nn.Module) -> Iterator[str]:
    """What is wrong with the data that the training begins with, a line a finding; one line where
    nothing is.
    """
    from cnnprobe import inspect_data
    from reference_models.data import loaders

    classes = plan.classes[: plan.start]
    both = loaders(splits, classes=classes, batch_size=plan.batch_size, seed=plan.seed)
    loss_fn = nn.CrossEntropyLoss()
    report = inspect_data(*both, model=model, loss_fn=loss_fn, samples=LOOKED_AT, pictures=False)
    found = [f for f in report.findings if f.severity != "info"]
    for finding in found:
        yield f"data: {finding.severity} {finding.code} {finding.rule}: {finding.message}"
    if not found:
        read = sum(split.samples for split in report.data.splits)
        yield f"data: looked at {read} images, nothing was found"


def describe(epoch: Epoch) -> str:
    """Two or more lines of at most 80 columns: the loss and the accuracies, then that of each
    class.
    """
    head = (
        f"epoch {epoch.number:3d}  {len(epoch.per_class):3d} classes  loss {epoch.loss:.4f}  "
        f"training {epoch.accuracy:6.1%}  validation {epoch.validation:6.1%}"
    )
    # Non-breaking spaces keep a name and its number on one line.
    each = "  ".join(
        f"{_plain(name)} {share:.0%}".replace(" ", "\u00a0")
        for name, share in epoch.per_class.items()
    )
    body = textwrap.fill(
        each,
        width=80,
        initial_indent=" " * 11,
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"{head}\n{body}".replace("\u00a0", " ")


def _plain(name: str) -> str:
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


def _save(model: nn.Module, path: Path) -> None:
    try:
        scratch = path.with_name(path.name + ".part")
        torch.save(model.state_dict(), scratch)
        scratch.replace(path)
    except (OSError, RuntimeError) as error:
        raise TargetError(
            f"the weights cannot be written: {error}",
            where=str(path),
            fix="name a file in a folder that you may write to",
        ) from error


def _run(options: argparse.Namespace) -> int:
    began = time.perf_counter()
    if options.save is not None:
        _check_target(options.save)
    device = find_device(options.device)
    splits = open_splits(options)
    plan = make_plan(options, splits)
    torch.manual_seed(plan.seed)
    model = (
        SimpleCNN(plan.start)
        if options.model == "SimpleCNN"
        else CNNModel(num_of_output_classes=plan.start)
    ).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{options.model} ({parameters:,} parameters) on {splits.name}: "
        f"{plan.start} of {len(splits.classes)} classes, seed {plan.seed}",
        flush=True,
    )
    for line in look_at_data(splits, plan, model):
        print(line, flush=True)
    for epoch in train(model, splits, plan):
        print(describe(epoch), flush=True)
    if options.save is not None:
        _save(model, options.save)
    return _conclude(plan, epoch, time.perf_counter() - began)


def _conclude(plan: Plan, epoch: Epoch, seconds: float) -> int:
    """Say what was learnt; the exit code."""
    known = len(epoch.per_class)
    after = f"{known} classes after {epoch.number} epochs and {seconds:.0f} s"
    print(f"{after}: validation {epoch.validation:.1%}", flush=True)
    if plan.start == len(plan.classes) or (epoch.learnt and known == len(plan.classes)):
        return 0
    goal = (
        f"{len(plan.classes)} classes at {plan.threshold:.0%}, each at {plan.class_threshold:.0%},"
    )
    print(
        f"error: {goal} were not reached in {plan.epochs} epochs\n"
        "  fix:   more --epochs, or a lower --threshold",
        file=sys.stderr,
    )
    return 1


def _check_target(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise UsageError(
            "no such folder to save into", where=str(path), fix="make the folder first"
        )
    if path.is_dir():
        raise UsageError(
            "--save needs a file, and this is a folder", where=str(path), fix="name a file in it"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv`; what went wrong stands on stderr in one message."""
    options = make_parser().parse_args(argv)
    try:
        return _run(options)
    except ProbeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has read enough; without this the interpreter complains when it
        # flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
