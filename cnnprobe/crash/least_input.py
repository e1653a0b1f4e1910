"""The least input that a model takes, by bisection on meta. Runs a shadow of the model, never the user's own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.model_copy import ModelCopy, copy_model
from cnnprobe.errors import TargetError

LARGEST = 2048  # pixels


def least_input(
    model: nn.Module, *args: Any, kwargs: Mapping[str, Any] | None = None
) -> tuple[int, ...] | None:
    """The least height and width (or length) with which the forward passes, all axes alike, batch and channels as in `args`.

    A model that takes one size only (a Linear after a flatten) gives that size if it is the one of `args`.

    Args:
        model: any model whose first argument is an image (or volume, or series) with its batch.
        *args: the forward's arguments with which it passes.
        kwargs: its keyword arguments.

    Returns:
        One size an axis; None where no size up to 2048 passes.

    Raises:
        TargetError: the first argument is no tensor with spatial axes, or the model cannot be copied.

    >>> least_input(nn.Sequential(nn.Conv2d(3, 8, 5), nn.MaxPool2d(2)), torch.zeros(1, 3, 32, 32))
    (6, 6)
    """
    if not args or not isinstance(args[0], Tensor) or args[0].dim() < 3:
        raise TargetError(
            "the model's first argument has no height and width",
            where="least_input",
            fix="give it an image: (N, C, H, W)",
        )
    shadow = copy_model(model, args, kwargs or {}, meta=True)
    if shadow is None:
        raise TargetError(
            f"{type(model).__name__} cannot be copied",
            where="least_input",
            fix="keep locks and files out of the model",
        )
    axes = args[0].dim() - 2
    given = max(args[0].shape[2:])
    start = given if passes(shadow, given, axes) else _first_that_passes(shadow, axes)
    if start is None:
        return None
    low, high = 1, start
    while low < high:
        middle = (low + high) // 2
        if passes(shadow, middle, axes):
            high = middle
        else:
            low = middle + 1
    return (high,) * axes


def _first_that_passes(shadow: ModelCopy, axes: int) -> int | None:
    pixels = 1
    while pixels <= LARGEST:
        if passes(shadow, pixels, axes):
            return pixels
        pixels *= 2
    return None


def passes(shadow: ModelCopy, pixels: int, axes: int) -> bool:
    """Whether the shadow takes an input of this size."""
    first = shadow.args[0]
    sized = torch.empty(
        (*first.shape[:-axes], *(pixels,) * axes), dtype=first.dtype, device=first.device
    )
    args = shadow.args
    shadow.args = (sized, *args[1:])
    try:
        return shadow.passes()
    finally:
        shadow.args = args
