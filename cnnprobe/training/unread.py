"""Finds the parts of an input that nothing reads: no gradient comes back to them, and noise in
their place changes nothing.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Unread
from cnnprobe.recorder import list_modes, restore_modes, switch_mode
from cnnprobe.recorder.preservation import seed_generators
from cnnprobe.recorder.values import EXACT, leaves
from cnnprobe.training.passes import call, difference, forward, fresh, tensors_of

MOST = 8  # inputs that are looked at
# share of the features that have to be unread; the stride of a convolution leaves fewer at the edge
LEAST = 1 / 8
# the same of a sequence, whose channels may be either of its two dims
LEAST_OF_SEQUENCE = 1 / 4
FEW = 4  # channels behind a picture's height and width: red, green, blue, alpha


def find_unread(
    model: nn.Module,
    inputs: Any,
    output: Any,
    ignored: tuple[str, ...],
) -> tuple[Unread, ...]:
    """The unread parts of the floating inputs, in eval mode; `ignored` are those unread as a whole.

    Args:
        model: what is called; its parameters get no gradient.
        inputs: what it is called on.
        output: what it gave for them.
        ignored: paths of inputs that are known to be unread.
    """
    paths = [(path, leaf) for path, leaf in leaves(inputs) if isinstance(leaf, Tensor)]
    chosen = [(p, x) for p, x in paths[:MOST] if p not in ignored and _is_judged(x)]
    reads = _find_read(model, inputs, [x for _, x in chosen]) if chosen else []
    found = []
    for (path, leaf), read in zip(chosen, reads, strict=False):
        for dim in _list_dims(leaf, is_alone=len(paths) == 1):
            places = _list_unread(read, dim)
            if not _is_part(places, leaf, dim):
                continue
            again = forward(model, fresh(_disturb(inputs, leaf, dim, places)), training=False)
            if again.error is None and difference(output, again.output) == 0.0:
                found.append(Unread(path=path, dim=dim, places=tuple(places), size=leaf.shape[dim]))
    return tuple(found)


def _is_judged(leaf: Tensor) -> bool:
    return (
        leaf.is_floating_point()
        and leaf.dim() > 1
        and leaf.numel() > 1
        and type(leaf) in EXACT
        and leaf.layout is torch.strided
    )


def _list_dims(leaf: Tensor, *, is_alone: bool) -> Iterator[int]:
    """The dims that may hold channels or features; padding beside a mask is none."""
    if leaf.dim() != 3 or is_alone:
        yield 1
    if leaf.dim() == 3 or (leaf.dim() == 4 and leaf.shape[3] <= FEW < leaf.shape[1]):
        yield leaf.dim() - 1


def _is_part(places: list[int], leaf: Tensor, dim: int) -> bool:
    """Whether so many places are more than an edge, and not all."""
    size, count = leaf.shape[dim], len(places)
    read = sorted(set(range(size)) - set(places))
    gaps = {later - earlier for earlier, later in itertools.pairwise(read)}
    if len(gaps) == 1 and gaps != {1}:
        return False  # every second frame: a stride, and no slice that is missing
    may_be_place = leaf.dim() == 3 or (dim == 1 and _has_places_first(leaf))
    share = LEAST_OF_SEQUENCE if may_be_place else LEAST if leaf.dim() == 2 else 0.0
    return max(1.0, share * size) <= count < size


def _has_places_first(leaf: Tensor) -> bool:
    """Whether dim 1 may be the rows of pictures with channels last, or the frames of a video."""
    if leaf.dim() == 4:
        return leaf.shape[3] <= FEW < leaf.shape[1]
    return leaf.dim() == 5 and leaf.shape[2] <= FEW


def _list_unread(read: Tensor, dim: int) -> list[int]:
    others = [d for d in range(read.dim()) if d != dim]
    return [i for i, is_read in enumerate(read.any(others).tolist()) if not is_read]


def _find_read(model: nn.Module, inputs: Any, chosen: list[Tensor]) -> list[Tensor]:
    """For each tensor, where a gradient of the outputs comes back to it; nothing where that cannot
    be asked.
    """
    roots = [x.detach().clone().requires_grad_(True) for x in chosen]
    places = {id(x): root for x, root in zip(chosen, roots, strict=True)}
    # A copy of the leaf goes in: what the forward writes to in place may be no leaf.
    given = torch.utils._pytree.tree_map(
        lambda v: places.get(id(v), v).clone() if isinstance(v, Tensor) else v, inputs
    )
    modes = list_modes(model)
    seed_generators(0)
    try:
        switch_mode(model, training=False)
        with torch.enable_grad():
            gradients = _differentiate(model, given, roots)
    except Exception:  # the model's own; it was called without gradients before
        return []
    finally:
        restore_modes(modes)
    return [
        torch.ones_like(x) if g is None else g != 0 for g, x in zip(gradients, roots, strict=True)
    ]


def _differentiate(model: nn.Module, given: Any, roots: list[Tensor]) -> list[Tensor | None]:
    ends = [t for t in tensors_of(call(model, given)) if t.requires_grad]
    generator = torch.Generator().manual_seed(3)
    # A sum alone has no gradient behind a softmax: each output gets a weight of its own.
    weights = [torch.randn(t.shape, generator=generator).to(t) for t in ends]
    if not ends:
        return [None] * len(roots)
    return list(torch.autograd.grad(ends, roots, weights, allow_unused=True))


def _disturb(inputs: Any, leaf: Tensor, dim: int, places: list[int]) -> Any:
    """The inputs with noise in the place of a part of one."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(leaf.shape, generator=generator).to(leaf)
    changed = leaf.detach().clone()
    index = torch.tensor(places, device=leaf.device)
    scale, middle = max(float(leaf.std()), 1e-3), float(leaf.mean())
    changed.index_copy_(dim, index, (3.0 * noise * scale + middle).index_select(dim, index))
    return torch.utils._pytree.tree_map(lambda v: changed if v is leaf else v, inputs)
