"""The verbs of the sizes of an input."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from cnnprobe.sizing.memory import MemoryRequest, measure_memory, parse_size
from cnnprobe.sizing.results import Memory, Shapes
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
    """  # noqa: E501
    return Shapes(derive_shapes(model, args, kwargs))


def memory(
    model: nn.Module,
    *args: Any,
    optimizer: Any = "adam",
    loss_fn: Callable[..., Any] | None = None,
    targets: Any = None,
    fits: str | int | None = None,
    checkpoint: str | Iterable[str] = (),
    **kwargs: Any,
) -> Memory:
    """The memory at the peak of training and of inference as a function of the batch N, and the
    largest batch that fits.

    Steps are run on tensors without data, and the bytes of every living storage are counted: the
    parameters, the optimizer's state, the gradients, what autograd keeps, and what is there only
    for a moment. Nothing is computed and no weight is read; the model is afterwards as it was. A
    training step is zero_grad, forward, loss, backward, optimizer step, with the optimizer's state
    already there; inference is a forward in eval mode under no_grad. A model in float32 is also run
    under bfloat16 autocast.

    `on_cpu` of a measured batch has besides the copies that oneDNN makes in convolutions on the
    CPU. Not included are workspaces of cuDNN, what an allocator keeps in reserve, and the CUDA
    context.

    Args:
        model: any nn.Module that can run without its weights, also one on the meta device. Modes of
            its own are put back. A lazy one stays lazy: a copy of it is measured, whose parameters
            have the shapes that the arguments give them.
        *args: the forward's positional arguments; N is dim 0 of the first tensor, and of each
            tensor that is as long.
        optimizer: "sgd", "momentum", "adam", "adamw" or "rmsprop", a class or function of the
            parameters, or an optimizer, whose settings are taken over.
        loss_fn: the loss, of the output and the targets; the mean of the outputs without.
        targets: of the loss, N of them.
        fits: a limit such as "24GiB" or a number of bytes: the largest batch within it is found.
        checkpoint: names of modules of which, each by itself, it is measured what activation
            checkpointing saves and costs.
        **kwargs: the forward's keyword arguments.

    Raises:
        TargetError: `model` is not an nn.Module, it cannot run without its weights or asks for a
            value, it is given no batch, or a pass raises.
        UnknownNameError: no optimizer or module has this name.
        UsageError: the limit is no size.

    >>> import torch
    >>> from torch import nn
    >>> found = memory(nn.Sequential(nn.Linear(100, 100), nn.ReLU()), torch.empty(8, 100), fits="1MiB")
    >>> found.fits(), found.fits("inference")
    (579, 840)
    """  # noqa: E501
    names = (checkpoint,) if isinstance(checkpoint, str) else tuple(checkpoint)
    request = MemoryRequest(
        optimizer=optimizer,
        loss_fn=loss_fn,
        targets=targets,
        limit=None if fits is None else parse_size(fits),
        checkpoint=names,
    )
    return Memory(measure_memory(model, args, kwargs, request))
