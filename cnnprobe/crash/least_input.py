"""The least input that a model takes, found by trial on meta, with a copy of the model."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.model_copy import ModelCopy, copy_model
from cnnprobe.errors import TargetError

LARGEST = 2048  # pixels
# Distances between sizes that pass, in the order in which they are tried: strides and patches.
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 3, 5, 6, 7, 9, 10, 12, 14, 18, 20, 24, 28, 36, 40, 48, 56)

Passes = Callable[[int], bool]


def least_input(
    model: nn.Module, *args: Any, kwargs: Mapping[str, Any] | None = None
) -> tuple[int, ...] | None:
    """The least height and width (or length) with which the forward passes, all dims alike.

    Batch and channels are as in `args`. A model that takes one size only (a Linear after a
    flatten) gives that size if it is the one of `args`.

    Args:
        model: any model whose first argument is an image (or volume, or series) with its batch.
        *args: the forward's arguments with which it passes.
        kwargs: its keyword arguments.

    Returns:
        One size a dim; None where no size up to 2048 passes.

    Raises:
        TargetError: the first argument has no spatial dims, or the model cannot be copied.

    >>> least_input(nn.Sequential(nn.Conv2d(3, 8, 5), nn.MaxPool2d(2)), torch.zeros(1, 3, 32, 32))
    (6, 6)
    """
    does_pass, dims = _copy(model, args, kwargs or {})
    start = _find_start(does_pass, max(args[0].shape[2:]))
    if start is None:
        return None
    return (find_least(does_pass, start, find_step(does_pass, start) or 1),) * dims


def least_multiple(
    model: nn.Module, *args: Any, kwargs: Mapping[str, Any] | None = None
) -> int | None:
    """The number of which height and width have to be a multiple, as a U-Net asks for.

    Args:
        model: as for `least_input`.
        *args: the forward's arguments with which it passes.
        kwargs: its keyword arguments.

    Returns:
        1 where all sizes from the least on pass; None where one size passes alone, or those that
        pass are multiples of nothing.

    Raises:
        TargetError: the first argument has no spatial dims, or the model cannot be copied.

    >>> least_multiple(nn.Conv2d(3, 8, 5), torch.zeros(1, 3, 32, 32))
    1
    """
    does_pass, _ = _copy(model, args, kwargs or {})
    start = _find_start(does_pass, max(args[0].shape[2:]))
    step = find_step(does_pass, start) if start is not None else None
    return step if step is not None and start is not None and start % step == 0 else None


def _copy(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Passes, int]:
    """Whether a copy on meta takes a size, and the number of spatial dims of its first argument."""
    if not args or not isinstance(args[0], Tensor) or args[0].dim() < 3:
        raise TargetError(
            "the model's first argument has no height and width",
            where="least_input",
            fix="give it an image: (N, C, H, W)",
        )
    twin = copy_model(model, args, kwargs, meta=True)
    if twin is None:
        raise TargetError(
            f"{type(model).__name__} cannot be copied",
            where="least_input",
            fix="keep locks and files out of the model",
        )
    dims = args[0].dim() - 2
    return lambda size: _passes(twin, size, dims), dims


def _find_start(does_pass: Passes, given: int) -> int | None:
    """A size that passes: the given one, or the first power of two."""
    return next((size for size in (given, *list_starts()) if does_pass(size)), None)


def list_starts() -> tuple[int, ...]:
    """The powers of two up to the largest size that is tried."""
    return tuple(2**i for i in range(LARGEST.bit_length()))


def find_step(does_pass: Passes, start: int) -> int | None:
    """How far apart the sizes that pass are; None where no other than `start` passes."""
    return next((step for step in _STEPS if does_pass(start + step)), None)


def find_least(does_pass: Passes, start: int, step: int) -> int:
    """The least of the sizes `start`, `start - step`, ... that pass, by bisection."""
    low, high = 0, (start - 1) // step
    while low < high:
        middle = (low + high) // 2
        if does_pass(start - (high - middle) * step):
            start, high = start - (high - middle) * step, middle
        else:
            low = middle + 1
    return start


def find_most(does_pass: Passes, start: int, step: int) -> int | None:
    """The largest of the sizes `start`, `start + step`, ... that pass; None: all up to 2048 do."""
    low, high = 0, max((LARGEST - start) // step, 1)
    if does_pass(start + high * step):
        return None
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if does_pass(start + middle * step) else (low, middle)
    return start + low * step


def _passes(twin: ModelCopy, size: int, dims: int) -> bool:
    """Whether the copy takes an input of this size."""
    args, first = twin.args, twin.args[0]
    shape = (*first.shape[:-dims], *(size,) * dims)
    twin.args = (torch.empty(shape, dtype=first.dtype, device=first.device), *args[1:])
    try:
        return twin.run().works
    finally:
        twin.args = args
