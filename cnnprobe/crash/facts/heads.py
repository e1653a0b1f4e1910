"""What a changed model gives a loss, and the head that decides what that is."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.channels import refit_channels
from cnnprobe.crash.facts.losses import COMPARED, FailingLoss
from cnnprobe.crash.model_copy import ShadowRun


def replace_outputs(loss: FailingLoss, crash: Crash, outcome: ShadowRun) -> dict[str, Any]:
    """What a copy of the model gave, in the place of the model's outputs among the arguments.

    Where the loss got something made of an output, a stand-in of the shape that it then has.
    Nothing, where that is not known.
    """
    before = [t.shape for t in crash.trace.calls[0].outputs] if crash.trace.calls else []
    after, left = list(outcome.shapes), list(range(len(before)))
    if not isinstance(loss.input, Tensor):
        return {loss.names[0]: outcome.output}
    if len(before) != len(after) or not before:
        return {}
    given: dict[str, Any] = {}
    for name in (loss.names[0], *COMPARED):
        value = loss.arguments.get(name)
        if not isinstance(value, Tensor) or name in given or value.dtype == torch.bool:
            continue
        shape = tuple(value.shape)
        i = next((i for i in left if before[i] == shape), 0)
        left = [j for j in left if j != i or before[i] != shape]
        if (derived := _derive_shape(shape, before[i], after[i])) is None:
            return {}
        given[name] = _stand_in(value, derived, outcome, is_same=shape == before[i])
    return given


def _derive_shape(
    shape: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The shape of what was made of an output, were the output of another shape."""
    if shape == before:
        return after
    if shape == (math.prod(before),):
        return (math.prod(after),)
    if before and shape == (math.prod(before[:-1]), before[-1]):
        return (math.prod(after[:-1]), after[-1])
    changed = [(a, b) for a, b in zip(before, after, strict=False) if a != b]
    if len(changed) != 1 or len(before) != len(after) or shape.count(changed[0][0]) != 1:
        return None
    return tuple(changed[0][1] if n == changed[0][0] else n for n in shape)


def _stand_in(like: Tensor, shape: tuple[int, ...], outcome: ShadowRun, *, is_same: bool) -> Tensor:
    real = [t for t in tree_leaves(outcome.output) if isinstance(t, Tensor)]
    found = next((t for t in real if tuple(t.shape) == shape and t.device == like.device), None)
    if found is not None and is_same:
        return found
    return like.detach().flatten()[:1].expand(shape)


def refit_head(crash: Crash, loss: FailingLoss, wanted: int) -> list[Any]:
    """The edits that give the output another number of classes, channels or columns."""
    outputs = crash.trace.calls[0].outputs if crash.trace.calls else ()
    same = [t for t in outputs if t.shape == tuple(loss.input.shape)] or list(outputs[:1])
    return list(refit_channels(crash, same[0], wanted)) if same else []
