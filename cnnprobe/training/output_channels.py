"""Finds channels of a model's output that the loss never reads, although the targets hold values
for them.
"""

import torch
from torch import Tensor
from torch.utils import _pytree

from cnnprobe.recorder.values import EXACT
from cnnprobe.training.free_output import Loss, compute_loss, list_free
from cnnprobe.training.target_places import Asked

MOST = 64  # channels
MAP = 4  # dims of an output with a place for each


def find_unread_channels(asked: Asked) -> tuple[tuple[int, ...], int]:
    """The channels of the only output that get no gradient and whose values change nothing, and
    how many there are.
    """
    outputs = list_free(asked.given.output)
    batch = [t for t in _pytree.tree_leaves(_list_batch(asked)) if isinstance(t, Tensor)]
    if len(outputs) != 1 or not outputs[0].dim() > 1:
        return (), 0
    output = outputs[0].detach()
    dim = _find_dim(tuple(output.shape), [tuple(t.shape) for t in batch])
    size = output.shape[dim] if dim is not None else 0
    if dim is None or not 1 < size <= MOST or any(_chooses(t, size) for t in batch):
        return (), 0
    silent = _list_silent(asked.base, dim)
    wanted = [t for t in _pytree.tree_leaves(asked.request.targets) if isinstance(t, Tensor)]
    if not 0 < len(silent) < size or not _are_meant(wanted, output, dim, silent):
        return (), 0
    other = output.clone()
    places = torch.tensor(silent, device=output.device)
    noise = torch.rand(other.shape, generator=torch.Generator().manual_seed(0)).to(other)
    other.index_copy_(dim, places, noise.index_select(dim, places))
    changed = _pytree.tree_map(
        lambda v: other if isinstance(v, Tensor) and v.shape == other.shape else v,
        asked.given.output,
    )
    made = compute_loss(asked.request.model, asked.making(asked.request), changed)
    is_unread = made is not None and made.value == asked.base.value
    return (silent, size) if is_unread else ((), 0)


def _list_batch(asked: Asked) -> object:
    return asked.request.inputs, asked.request.targets


def _find_dim(shape: tuple[int, ...], batch: list[tuple[int, ...]]) -> int | None:
    """The dim of the channels: the last of (N, C), that of a square map which is not its side, in
    the output or in the targets.
    """
    if len(shape) == 2:
        return 1
    for each in (shape, *batch):
        if len(shape) == len(each) == MAP and each[2] == each[3] != each[1]:
            return 1
        if len(shape) == len(each) == MAP and each[1] == each[2] != each[3]:
            return 3
    return None


def _chooses(tensor: Tensor, size: int) -> bool:
    """Whether a tensor of the batch may choose channels by their numbers."""
    return (
        type(tensor) in EXACT
        and not tensor.is_floating_point()
        and tensor.dtype != torch.bool
        and tensor.numel() > 0
        and int(tensor.max()) < size
    )


def _list_silent(loss: Loss, dim: int) -> tuple[int, ...]:
    gradients = [g for g in loss.gradients if g is not None]
    if len(gradients) != 1:
        return ()
    read = (gradients[0] != 0).movedim(dim, 0).flatten(1).any(1)
    return tuple((~read).nonzero()[:, 0].tolist())


def _are_meant(targets: list[Tensor], output: Tensor, dim: int, silent: tuple[int, ...]) -> bool:
    """Whether targets of as many channels, or more, hold different values at those channels; not
    where they are the one class beside the others.
    """
    for target in targets:
        if target.dim() != output.dim() or not target.is_floating_point():
            continue
        sizes = [n for d, n in enumerate(target.shape) if d != dim]
        own = [n for d, n in enumerate(output.shape) if d != dim]
        if sizes != own or target.shape[dim] < output.shape[dim]:
            continue
        rows = target.detach().movedim(dim, 0).flatten(1)
        is_shared_out = bool((rows.sum(0) - 1).abs().max() < 1e-4)
        if not is_shared_out and all(bool(rows[k].std() > 0) for k in silent):
            return True
    return False
