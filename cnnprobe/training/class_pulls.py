"""How much a loss pulls at an output that knows nothing, for each class of the targets: the weights
of the classes, however they come in.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cnnprobe.training.free_output import compute_loss, list_free
from cnnprobe.training.target_places import Asked, arrange, find_fitting

POINTS = (0.0, 0.5)  # logits, or values: a squared error is weighed otherwise at each
Pulls = tuple[tuple[float, float], ...]


def weigh_labels(asked: Asked, target: Tensor) -> Pulls:
    """The share of each class and the mean size of the gradient at its places, over that of
    the commonest class, the largest of several outputs; empty where it holds other values.
    """
    classes, fitting = find_fitting(asked, target)
    if not fitting or not (classes or _is_binary(target)):
        return ()
    index, order = fitting[0]
    found: list[list[float]] = []
    for output in _list_neutral(asked.given.output, index, order, target):
        step = asked.making(asked.request)
        loss = compute_loss(asked.request.model, step, output)
        gradient = None if loss is None else loss.gradients[index]
        if gradient is None:
            return ()
        found.append(_average(arrange(order, gradient, target.shape).abs(), target, classes))
    shares = _count(target, classes or 2)
    if not found or not any(shares):
        return ()
    most = shares.index(max(shares))
    if not all(each[most] > 0 for each in found):
        return ()
    relative = [[v / each[most] for v in each] for each in found]
    return tuple((share, max(each[k] for each in relative)) for k, share in enumerate(shares))


def _is_binary(target: Tensor) -> bool:
    return bool(((target == 0) | (target == 1)).all()) and bool((target == 1).any())


def _count(target: Tensor, classes: int) -> list[float]:
    flat = target.detach().flatten()
    return [float((flat == k).double().mean()) for k in range(classes)]


def _list_neutral(output: Any, index: int, order: tuple[int, ...], target: Tensor) -> Iterator[Any]:
    """The output with values that say the same of all classes, in the place of one tensor."""
    free = list_free(output)
    own = free[index]
    arranged = arrange(order, own, target.shape)
    inside = bool(((own >= 0) & (own <= 1)).all())
    sums = arranged.sum(-1)
    if arranged.shape[-1] > 1 and inside and bool(((sums - 1).abs() < 1e-3).all()):
        values = [1 / arranged.shape[-1]]
    else:
        values = [0.4, 0.5] if inside else list(POINTS)
    for value in values:
        yield torch.utils._pytree.tree_map(
            lambda v, value=value: torch.full_like(v, value) if v is own else v, output
        )


def _average(pull: Tensor, target: Tensor, classes: int) -> list[float]:
    """The mean at the places of each class, at its own output where each has one."""
    labels = target.detach().reshape([n for n in target.shape if n != 1]).to(pull.device).long()
    if classes:
        valid = (labels >= 0) & (labels < classes)
        pull = pull.gather(-1, labels.clamp(0, classes - 1)[..., None])
        pull = pull * valid[..., None]
    mine = pull[..., 0].double()
    found = []
    for k in range(classes or 2):
        among = mine[labels == k]
        found.append(float(among.mean()) if among.numel() else 0.0)
    return found
