"""Which place of a model's output each place of the targets acts on, and in which direction: asked
by changing one element of the targets at a time.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from cnnprobe.training.free_output import Given, Loss, Step, compute_loss, list_free
from cnnprobe.training.request import Request

TRIED = 8  # elements of a target
NOTHING = 1e-6  # of the greatest gradient: rounding
HERE, ELSEWHERE = 0.05, 1e-3  # of the greatest change, at the place itself
MOST_PLACES = 0.05  # of all places, that one element of a target acts on when it acts on others
MOST_DIMS = 6
Order = tuple[int, ...]  # of the dims of an output
Fitting = list[tuple[int, Order]]  # which tensor of the output, and how its dims are those of one


class Making(Protocol):
    """Makes the step of a request; `seed` is added to that of the random generators."""

    def __call__(self, request: Request, *, seed: int = 0) -> Step:
        """The step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One loss, and how it is asked."""

    request: Request
    making: Making
    given: Given
    base: Loss

    def change(self, old: Tensor, new: Tensor) -> Loss | None:
        """The loss with another tensor in the batch."""
        changed = replace_tensors(self.request, {id(old): new})
        return compute_loss(self.request.model, self.making(changed), self.given.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a changed element of a target changes."""

    element: tuple[int, ...]  # its index
    place: tuple[int, ...]  # the same without dims of size 1
    acts: tuple[int, ...]  # where it changes most
    is_misplaced: bool  # there, and not at its own place
    direction: int  # 1: the output follows the target; -1: it goes away; 0: not known


def replace_tensors(request: Request, others: dict[int, Tensor]) -> Request:
    """The request with other tensors in its batch, by the ids of those that they replace."""
    inputs, targets = torch.utils._pytree.tree_map(
        lambda v: others.get(id(v), v), (request.inputs, request.targets)
    )
    return replace(request, inputs=inputs, targets=targets)


def find_fitting(asked: Asked, target: Tensor) -> tuple[int, Fitting]:
    """Of how many classes a target holds labels, 0 for values, and the tensors of the output whose
    dims fit to it.
    """
    outputs = list_free(asked.given.output)
    fitting = [
        (k, order)
        for k, output in enumerate(outputs)
        for order in _list_orders(tuple(output.shape), tuple(target.shape))
    ]
    counts = [count_classes(outputs[k], target, order) for k, order in fitting]
    classes = max(counts, default=0)
    return classes, [each for each, n in zip(fitting, counts, strict=True) if n == classes]


def _list_orders(shape: tuple[int, ...], target: tuple[int, ...]) -> Iterator[Order]:
    """The orders of the dims of an output that begin with those of a target, also with the first
    two exchanged, and have at most one more; () where samples and steps are one dim.
    """
    core = [size for size in target if size != 1]
    if len(shape) > MOST_DIMS:
        return
    if len(core) > 1 and shape[:1] == (math.prod(core),) and len(shape) < 3:
        yield ()
    for order in itertools.permutations(range(len(shape))):
        first, rest = order[: len(core)], order[len(core) :]
        is_kept = list(first[1:]) == sorted(first[1:]) and list(rest) == sorted(rest)
        sizes = [shape[d] for d in rest if shape[d] != 1]
        if is_kept and [shape[d] for d in first] == core and len(sizes) < 2:
            yield order


def arrange(order: Order, output: Tensor, target: Sequence[int]) -> Tensor:
    """The output as (dims of the target, classes)."""
    moved = output.permute(order) if order else output
    return moved.reshape(*[size for size in target if size != 1], -1)


def count_classes(output: Tensor, target: Tensor, order: Order) -> int:
    """Of how many classes a target holds the labels, if it does; 0 where it holds values."""
    size = arrange(order, output, target.shape).shape[-1]
    is_whole = not target.is_floating_point() and target.dtype != torch.bool
    is_label = is_whole and size > 1 and bool(((target >= 0) & (target < size)).any())
    # of labels that count from 1, the highest lies beyond
    return size if is_label and int(target.max()) <= size else 0


def find_effects(asked: Asked, target: Tensor, classes: int, fitting: Fitting) -> list[Effect]:
    """What changed elements of a target change, of those that change anything."""
    found = []
    for element in _choose(target, classes) if fitting else []:
        changed = target.detach().clone()
        changed[element] = _find_other(target.detach(), element, classes)
        made = asked.change(target, changed)
        if made is None:
            continue
        pair = (target.detach()[element], changed[element])
        effect = _compare(asked.base, made, (element, target.shape, pair), fitting)
        found += [] if effect is None else [effect]
    return found


def acts_alike(asked: Asked, target: Tensor, effect: Effect, other: Any) -> bool:
    """Whether an element acts on the same place with another output: no match was made by it."""
    classes, fitting = find_fitting(asked, target)
    step = asked.making(asked.request)
    base = compute_loss(asked.request.model, step, other)
    if base is None:
        return False
    again = replace(asked, given=replace(asked.given, output=other), base=base)
    changed = target.detach().clone()
    changed[effect.element] = value = _find_other(target.detach(), effect.element, classes)
    made = again.change(target, changed)
    pair = (target.detach()[effect.element], value)
    found = (
        None
        if made is None
        else _compare(base, made, (effect.element, target.shape, pair), fitting)
    )
    return found is not None and found.acts == effect.acts


def _choose(target: Tensor, classes: int) -> list[tuple[int, ...]]:
    """Elements of a target to change, of as many samples as can be."""
    per_sample = target[0].numel()
    generator = torch.Generator().manual_seed(0)
    samples = torch.linspace(0, len(target) - 1, min(TRIED, len(target))).long().tolist()
    rounds = -(-TRIED // len(samples)) if per_sample > 1 else 1
    flat = target.detach().reshape(len(target), -1)
    found: list[tuple[int, ...]] = []
    for sample in samples * rounds:
        row = flat[sample]
        valid = ((row >= 0) & (row < classes)) if classes else torch.ones_like(row).bool()
        among = valid.nonzero()[:, 0]
        if len(among):
            pick = among[int(torch.randint(len(among), (1,), generator=generator))].cpu()
            index = torch.unravel_index(pick + sample * per_sample, target.shape)
            found.append(tuple(int(i) for i in index))
    return list(dict.fromkeys(found))[:TRIED]


def _find_other(target: Tensor, element: tuple[int, ...], classes: int) -> Tensor:
    """Another value for one element: another label, the other of two values, half a deviation
    more.
    """
    old: Tensor = target[element]
    values: Tensor = torch.unique(target)
    if classes or not target.is_floating_point():
        others = values[values != old]
        others = others[(others >= 0) & (others < classes)] if classes else others
        return others[sum(element) % len(others)] if len(others) else old + (1 if old < 1 else -1)
    if len(values) == 2:
        return torch.where(old == values[1], values[0], values[1])
    return old + 0.5 * target.std()


def _compare(
    base: Loss,
    made: Loss,
    changed: tuple[tuple[int, ...], Sequence[int], tuple[Tensor, Tensor]],
    fitting: Fitting,
) -> Effect | None:
    """What differs between the gradients of two losses; None where nothing does."""
    element, shape, (old, new) = changed
    effects = [
        None if a is None or b is None else b - a
        for a, b in zip(base.gradients, made.gradients, strict=True)
    ]
    scale = max((float(g.abs().max()) for g in base.gradients if g is not None), default=0.0)
    top = max((float(e.abs().max()) for e in effects if e is not None), default=0.0)
    arranged = [arrange(o, e, shape) for k, o in fitting if (e := effects[k]) is not None]
    if not math.isfinite(top) or top <= NOTHING * scale or not arranged:
        return None
    place = tuple(i for i, size in zip(element, shape, strict=True) if size != 1)
    mine = max(arranged, key=lambda a: float(a[place].abs().max()))
    here = float(mine[place].abs().max())
    widest = max(arranged, key=lambda a: float(a.abs().max())).abs().amax(-1)
    spread = int((widest > 0.1 * top).sum())
    is_few = spread <= max(2.0, MOST_PLACES * widest.numel())
    return Effect(
        element=element,
        place=place,
        acts=tuple(int(i) for i in torch.unravel_index(widest.argmax(), widest.shape)),
        is_misplaced=here <= ELSEWHERE * top and is_few,
        direction=_find_direction(mine[place], old, new) if here > HERE * top else 0,
    )


def _find_direction(change: Tensor, old: Tensor, new: Tensor) -> int:
    """Whether what changed pulls the output to the new value of the target, or pushes it away."""
    if change.numel() == 1:
        rise = float(new.double() - old.double())
        return -1 if rise * float(change) > 0 else 1
    if new.is_floating_point() or not 0 <= int(new) < len(change):
        return 0
    pair = change[[int(old), int(new)]].tolist()
    if min(abs(v) for v in pair) < 0.5 * float(change.abs().max()) or pair[0] * pair[1] >= 0:
        return 0
    return 1 if pair[0] > 0 else -1
