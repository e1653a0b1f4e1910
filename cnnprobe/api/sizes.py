"""The verbs of the sizes of an input."""

from typing import Any

from torch import nn

from cnnprobe.sizing.results import Shapes
from cnnprobe.sizing.shapes import derive_shapes


def shapes(model: nn.Module, *args: Any, **kwargs: Any) -> Shapes:
    """Every output shape as a formula of the input's sizes, and the sizes that the forward accepts.

    Nothing is computed and no weight is read: passes on shapes alone, at a few sizes, give the
    numbers; the formulas that fit them are checked at sizes that they were not made from. Where
    none fits, the numbers are shown. The model is afterwards as it was.

    The batch N and the sizes H and W of the first tensor vary (L of a sequence; D, H, W of a
    volume), also those of further tensors where the forward asks for it. For each, the least size,
    the distance of legal sizes and the largest one are found, up to 2048; a size that crashes is
    explained. Sizes at which no convolution or pooling cuts off an edge are named too.

    Args:
        model: any nn.Module that can run without its weights, also one on the meta device.
        *args: the forward's positional arguments, the first with a tensor.
        **kwargs: the forward's keyword arguments.

    Raises:
        TargetError: `model` is not an nn.Module, it cannot run without its weights, it is given no
            tensor, or it accepts no size up to 2048.

    >>> import torch
    >>> from torch import nn
    >>> found = shapes(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)), torch.zeros(1, 3, 32, 32))
    >>> found["1"], found.at("1", N=2, H=50, W=33), found.symbols["H"].least
    ('(N, 8, floor(H/2), floor(W/2))', (2, 8, 25, 16), 2)
    """
    return Shapes(derive_shapes(model, args, kwargs))
