"""Measures what the values of a batch say of themselves."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnprobe.diagnosis.evidence import BatchFacts, Teacher
from cnnprobe.recorder.inventory import has_values
from cnnprobe.recorder.values import leaves
from cnnprobe.training.request import Request

NEAR = 0.01  # of the spread of the differences, of values that are the same
LARGEST = 1 << 22  # pixels of a map of classes
WIDEST = 12  # pixels of a strip between two classes
THIN = 2  # the same, of one that an average makes
MOST_CLASSES = 256
FEWEST = 16  # samples of which an agreement is judged


def describe_batch(request: Request) -> BatchFacts:
    """What is measured of the inputs and targets of a request."""
    with torch.no_grad():
        targets = {f"targets{path}": t for path, t in _list_tensors(request.targets)}
        return BatchFacts(
            offsets=_measure_offsets([t for _, t in _list_tensors(request.inputs)], targets),
            borders=next(filter(None, map(_count_borders, targets.values())), None),
            teacher=find_teacher(targets),
        )


def _list_tensors(given: Any) -> list[tuple[str, Tensor]]:
    return [(p, t.detach()) for p, t in leaves(given) if isinstance(t, Tensor) and _is_plain(t)]


def _is_plain(tensor: Tensor) -> bool:
    return has_values(tensor) and tensor.layout is torch.strided and not tensor.is_nested


def _measure_offsets(
    inputs: list[Tensor], targets: Mapping[str, Tensor]
) -> tuple[float, float] | None:
    """Of the only target, the shares that lie above and below the only input of its shape."""
    same = [
        (x, y)
        for x in inputs
        for y in targets.values()
        if x.shape == y.shape and x.is_floating_point() and y.is_floating_point()
    ]
    if len(same) != 1 or len(targets) != 1 or same[0][0].numel() < len(same) + 1:
        return None
    given, target = same[0]
    apart = target.double() - given.to(target.device).double()
    least = NEAR * float(apart.std())
    return float((apart > least).double().mean()), float((apart < -least).double().mean())


# -- borders of classes ----------------------------------------------------------------------------


def _count_borders(target: Tensor) -> tuple[int, int, int] | None:
    """Places with a thin class between two others, with a wide one, and with none; only of classes
    that fill places of their own, too.
    """
    labels = target.squeeze(1) if target.dim() == 4 and target.shape[1] == 1 else target
    if labels.dim() != 3 or target.is_floating_point() or target.numel() > LARGEST:
        return None
    labels = labels.long()
    if min(labels.shape[1:]) < WIDEST or not 2 <= int(labels.max()) < MOST_CLASSES:
        return None
    solid = [k for k in torch.unique(labels).tolist() if _fills(labels == k)]
    thin = wide = direct = 0
    for lines in (labels, labels.transpose(1, 2)):
        direct += int((lines.diff(dim=-1).abs() >= 2).sum())
        for width in range(1, WIDEST - 1):
            count = _count_strips(lines, width, solid)
            thin, wide = (thin + count, wide) if width <= THIN else (thin, wide + count)
    return thin, wide, direct


def _fills(mask: Tensor) -> bool:
    """Whether there are places with nothing else around them."""
    return bool((F.max_pool2d((~mask).float()[:, None], 3, 1) == 0).any())


def _count_strips(lines: Tensor, width: int, solid: list[int]) -> int:
    """Runs of this length of one class whose neighbours are a lower and a higher one."""
    windows = lines.unfold(-1, width + 2, 1)
    first, last, inner = windows[..., 0], windows[..., -1], windows[..., 1:-1]
    middle = inner[..., 0]
    is_even = (inner == middle[..., None]).all(-1)
    is_between = (first - middle).sign() * (middle - last).sign() > 0
    known = torch.isin(middle, torch.tensor(solid, device=lines.device))
    return int((is_even & is_between & known).sum())


# -- a teacher beside labels -----------------------------------------------------------------------


def find_teacher(given: Mapping[str, Tensor]) -> Teacher | None:
    """The outputs of a teacher and the labels among tensors, with how well they agree."""
    labels = [
        (name, t)
        for name, t in given.items()
        if t.dim() == 1 and t.dtype in (torch.int64, torch.int32) and len(t) >= FEWEST
    ]
    for path, truth in labels[:1]:
        for name, scores in reversed(list(given.items())):  # the model's own come first
            if scores.dim() == 2 and scores.is_floating_point() and len(scores) == len(truth):
                found = _compare(truth.to(scores.device), scores.double())
                if found is not None:
                    agreement, chance, surety = found
                    return Teacher(
                        name=name, labels=path, agreement=agreement, chance=chance, surety=surety,
                        samples=len(truth), classes=scores.shape[1],
                    )  # fmt: skip
    return None


def _compare(truth: Tensor, scores: Tensor) -> tuple[float, float, float] | None:
    """How often the greatest score is that of the label, how often it is by chance, and how sure
    the scores are; None where they are none of these classes.
    """
    classes = scores.shape[1]
    if not 0 <= int(truth.min()) <= int(truth.max()) < classes or not bool(scores.isfinite().all()):
        return None
    is_probable = bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < 1e-3).all())
    surety = (scores if is_probable else scores.softmax(1)).amax(1).mean()
    named = scores.argmax(1)
    shares = [torch.bincount(t, minlength=classes).double() / len(truth) for t in (truth, named)]
    chance = (shares[0] * shares[1]).sum()
    return float((named == truth).double().mean()), float(chance), float(surety)
