"""Judges a loss without its model: which output makes it small, which place of the output each
place of the targets acts on, and which samples it reads.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cnnprobe.diagnosis.evidence import FreeLoss, FreeOutput
from cnnprobe.recorder.values import EXACT, leaves
from cnnprobe.training.class_pulls import Pulls, weigh_labels
from cnnprobe.training.free_output import (
    Given,
    Loss,
    capture_call,
    compute_loss,
    list_free,
    minimise_loss,
)
from cnnprobe.training.output_channels import find_unread_channels
from cnnprobe.training.passes import batch_size
from cnnprobe.training.request import Request
from cnnprobe.training.target_places import (
    Asked,
    Effect,
    Making,
    acts_alike,
    arrange,
    find_effects,
    find_fitting,
    replace_tensors,
)

FEWEST = 4  # samples, and elements of a target that act; of fewer nothing is said
LARGEST = 1 << 21  # elements of an output that is tried
MOST, OTHERS = 0.8, 0.5  # of the tried elements: in one direction, and at other places
ENOUGH = 0.99  # agreement of a minimum with its targets
# What couples places on purpose: a match of values by their order, or of all with all.
COUPLING = frozenset({"Sort", "Topk", "Cdist", "Kthvalue", "Mm", "Bmm"})


def judge_loss(request: Request, making: Making, put_back: Callable[[], None]) -> FreeLoss | None:
    """What the loss of a step asks of the output; None where the step does not call its model once
    before the first backward, or the loss is not one of the output alone.
    """
    n = batch_size(request.inputs, request.targets) or 0
    given = capture_call(request.model, making(request)) if n >= FEWEST else None
    put_back()
    if given is None or not _keeps_order(request.inputs, given, n):
        return None
    if not 0 < sum(t.numel() for t in list_free(given.output)) <= LARGEST:
        return None
    base = compute_loss(request.model, making(request), given.output)
    again = compute_loss(request.model, making(request), given.output)
    if base is None or again is None or not is_same(base, again) or not math.isfinite(base.value):
        return None
    if base.parameters or base.kinds & COUPLING:
        return None
    asked = Asked(request=request, making=making, given=given, base=base)
    channels, size = find_unread_channels(asked)
    return FreeLoss(
        outputs=tuple(_judge_targets(asked, n)), samples=n, unread=_find_unread(asked, n),
        pulls=_weigh_classes(asked, n), channels=channels, size=size,
    )  # fmt: skip


def is_same(a: Loss, b: Loss) -> bool:
    """Whether two losses have the same gradients, to the bit."""
    return all(
        x is y if x is None or y is None else torch.equal(x, y)
        for x, y in zip(a.gradients, b.gradients, strict=True)
    )


def _keeps_order(inputs: Any, given: Given, n: int) -> bool:
    """Whether the model gets the samples in the order of the batch: each is the most like it."""
    batch = [t for t in _list_tensors(inputs) if t.shape[:1] == (n,)]
    for tensor in _list_tensors((given.args, given.kwargs)):
        for mine in (tensor, tensor.transpose(0, 1) if tensor.dim() > 1 else tensor):
            for theirs in batch:
                if mine.shape == theirs.shape:  # the step may have moved it to another device
                    return _is_alike(mine, theirs.to(mine.device), n)
    return False


def _is_alike(mine: Tensor, theirs: Tensor, n: int) -> bool:
    if torch.equal(mine, theirs):
        return True
    rows = [t.detach().reshape(n, -1).double()[:, :4096] for t in (mine, theirs)]
    a, b = (r - r.mean(1, keepdim=True) for r in rows)
    a, b = (torch.nn.functional.normalize(r, dim=1) for r in (a, b))
    nearest = (a @ b.T).argmax(1)
    return bool((nearest == torch.arange(n, device=nearest.device)).double().mean() > MOST)


def _list_tensors(value: Any) -> list[Tensor]:
    return [
        t
        for _, t in leaves(value)
        if isinstance(t, Tensor)
        if type(t) in EXACT and t.layout is torch.strided and t.dim() > 0 and not t.is_complex()
    ]


# -- the targets -----------------------------------------------------------------------------------


def _judge_targets(asked: Asked, n: int) -> Iterator[FreeOutput]:
    """What each target asks; of the inputs, where no target does."""
    found: list[FreeOutput] = []
    for name in ("targets", "inputs"):
        for path, target in leaves(getattr(asked.request, name)):
            if found and name == "inputs":
                break
            for tensor in _list_tensors([target]):
                if tensor.shape[:1] == (n,):
                    judged = _judge_target(asked, f"{name}{path}", tensor)
                    found += [] if judged is None else [judged]
    yield from found


def _judge_target(asked: Asked, name: str, target: Tensor) -> FreeOutput | None:
    other = asked.change(target, target.roll(1, 0))
    if other is not None and is_same(asked.base, other):
        return None  # the loss does not read it
    classes, fitting = find_fitting(asked, target)
    effects = find_effects(asked, target, classes, fitting)
    if len(effects) < FEWEST:
        return None
    misplaced = [e for e in effects if e.is_misplaced]
    if misplaced and not _is_fixed(asked, target, misplaced):
        return None
    directions = [e.direction for e in effects]
    shown = (misplaced or effects)[0]
    found = FreeOutput(
        target=name, classes=classes, tried=len(effects), misplaced=len(misplaced),
        reversed=directions.count(-1), places=(shown.place, shown.acts),
    )  # fmt: skip
    followed = directions.count(1) if classes else 0
    most = max(found.reversed, followed) >= MOST * found.tried
    if most or found.misplaced >= OTHERS * found.tried:
        return _minimise(asked, found, target, fitting[0])
    return found


def _is_fixed(asked: Asked, target: Tensor, misplaced: list[Effect]) -> bool:
    """Whether the places do not depend on the output, and are no shift in time, as that of a model
    that predicts the next step.
    """
    shifts = {tuple(a - p for a, p in zip(e.acts, e.place, strict=True)) for e in misplaced}
    if len(shifts) == 1 and next(iter(shifts))[0] == 0:
        return False
    other = _disturb(asked.given.output)
    return acts_alike(asked, target, misplaced[0], other)


def _weigh_classes(asked: Asked, n: int) -> Pulls:
    """Of the only target, how much the loss pulls at each of its classes."""
    targets = [t for t in _list_tensors(asked.request.targets) if t.shape[:1] == (n,)]
    return weigh_labels(asked, targets[0]) if len(targets) == 1 else ()


# -- the minimum -----------------------------------------------------------------------------------


def _minimise(
    asked: Asked, found: FreeOutput, target: Tensor, fitting: tuple[int, tuple[int, ...]]
) -> FreeOutput:
    index, order = fitting
    gradient = asked.base.gradients[index]
    if gradient is None:
        return found
    wanted = target.detach().reshape([size for size in target.shape if size != 1])
    wanted = wanted.to(gradient.device)
    read = (arrange(order, gradient, target.shape) != 0).any(-1)
    read &= ((wanted >= 0) & (wanted < found.classes)) if found.classes else wanted.isfinite()

    def agree(output: Any) -> tuple[float, float]:
        now = arrange(order, list_free(output)[index].detach(), target.shape)
        if found.classes:
            named, least = now.argmax(-1) == wanted, now.argmin(-1) == wanted
            return float(named[read].double().mean()), float(least[read].double().mean())
        ranks = _correlate(now[..., 0][read], wanted[read])
        return ranks, -ranks

    if not bool(read.any()):
        return found
    own = list_free(asked.given.output)[index].double()
    rate = max(0.1 * float(own.std()) if own.numel() > 1 else 0.0, 1e-3)
    if not found.classes and wanted.numel() == own.numel():
        apart = arrange(order, own, target.shape)[..., 0] - wanted.double()
        rate = max(rate, float(apart.square().mean().sqrt()) / 30)
    step = asked.making(asked.request)
    output, losses = minimise_loss(
        asked.request.model, step, asked.given.output, rate, lambda o: agree(o)[0] > ENOUGH
    )
    agreement, opposite = agree(output)
    now = list_free(output)[index]
    return replace(
        found, agreement=agreement, opposite=opposite, steps=len(losses),
        farther=None if found.classes else _compare_distances(order, own, now, wanted),
    )  # fmt: skip


def _compare_distances(
    order: tuple[int, ...], before: Tensor, after: Tensor, wanted: Tensor
) -> float | None:
    """How much farther an output is from its targets than before; None of targets of two values."""
    values: Tensor = torch.unique(wanted[wanted.isfinite()])
    if wanted.numel() != before.numel() or len(values) < 3:
        return None
    near, far = (
        (arrange(order, each.double(), wanted.shape)[..., 0] - wanted.double()).nan_to_num().norm()
        for each in (before, after)
    )
    return float(far / near) if near > 0 else None


def _correlate(a: Tensor, b: Tensor) -> float:
    """The rank correlation of two tensors; 0 where one of them is constant."""
    ranks = [torch.unique(t.double(), return_inverse=True)[1].double() for t in (a, b)]
    x, y = (r - r.mean() for r in ranks)
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size > 0 else 0.0


# -- samples that are not read ---------------------------------------------------------------------


def _find_unread(asked: Asked, n: int) -> tuple[int, ...]:
    """The samples of the output without a gradient: for this output and one with noise, for this
    batch and the same in another order.
    """
    silent = _list_silent(asked.base, n)
    if not silent or len(silent) == n:
        return ()
    request, output = asked.request, asked.given.output
    noisy = _disturb(output)
    rolled = replace_tensors(
        request,
        {
            id(t): t.detach().roll(1, 0)
            for t in _list_tensors((request.inputs, request.targets))
            if t.shape[:1] == (n,)
        },
    )
    step = asked.making(rolled, seed=1)
    other = compute_loss(request.model, step, output)
    if other is None or _list_silent(other, n) != silent:
        return ()  # another label, or another draw, chooses them
    other = compute_loss(request.model, asked.making(request), noisy)
    silent &= _list_silent(other, n) if other is not None else set()
    return tuple(sorted(silent))


def _list_silent(loss: Loss, n: int) -> set[int]:
    """The samples without a gradient, where dim 0 of all that has one is the batch."""
    gradients = [g for g in loss.gradients if g is not None]
    if not gradients or any(g.shape[:1] != (n,) for g in gradients):
        return set()
    read = torch.stack([(g != 0).reshape(n, -1).any(1) for g in gradients]).any(0)
    return set((~read).nonzero()[:, 0].tolist())


def _disturb(output: Any) -> Any:
    """The output with noise of its own size."""
    generator = torch.Generator().manual_seed(0)
    free = {id(t) for t in list_free(output)}

    def add(value: Any) -> Any:
        if id(value) not in free or value.numel() < 2:
            return value
        return value + torch.randn(value.shape, generator=generator).to(value) * value.std()

    return torch.utils._pytree.tree_map(add, output)
