"""Watches copies of the trained weights that the step itself updates: moving averages, teachers,
target networks.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Average, LeftBehind
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.training.stillness import Still, find_left_behind, watch_calls
from cnnprobe.training.surroundings import Surroundings

STEPS = 4  # that are run at least; the first shows nothing where both are equal yet
NEAR = 0.5  # of their distance before: weights that are that near to the copy were written from it
MOST = 8  # tensors of a copy that are read
LONGEST = 1 << 16  # elements of one
FITS = 0.1  # of the copy's change may be left unexplained
Reading = Callable[[], list[Tensor]]
Followed = tuple[tuple[Average, ...], tuple[LeftBehind, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy that no optimizer holds, and the trained weights of the same shapes."""

    name: str
    of: str
    read: Reading
    read_of: Reading
    modules: tuple[nn.Module, nn.Module] | None = None  # None: a plain container of tensors


def find_averages(
    model: nn.Module,
    around: Surroundings,
    run: Callable[[], Any],
    put_back: Callable[[], None],
    steps: int = STEPS,
) -> Followed:
    """How each copy follows the weights that it is of, over a few steps, and what is left behind;
    copies that do not change are no averages. The steps are run; `put_back` restores what they
    change.
    """
    pairs = list(list_copies(model, around))
    if not pairs:
        return (), ()
    try:
        return _follow(pairs, run, max(steps, STEPS))
    finally:
        put_back()


def _follow(pairs: list[Copy], run: Callable[[], Any], steps: int) -> Followed:
    states = [_read(pairs)]
    still = [Still(c.name, c.of, *c.modules) for c in pairs if c.modules is not None]
    try:
        with watch_calls(still):
            for _ in range(steps):
                run()
                states.append(_read(pairs))
    except Exception:  # the step's own; it is told elsewhere
        return (), ()
    return tuple(_fit_pairs(pairs, states)), tuple(find_left_behind(still))


def _fit_pairs(pairs: list[Copy], states: list[list[tuple[Tensor, Tensor]]]) -> Iterator[Average]:
    for i, pair in enumerate(pairs):
        fits = [_fit(*before[i], *after[i]) for before, after in itertools.pairwise(states[1:])]
        known = [fit for fit in fits if fit is not None]
        if known and len(known) == len(fits):
            yield Average(
                name=pair.name,
                of=pair.of,
                weights=tuple(weight for weight, _ in known),
                sums=tuple(total for _, total in known),
                overwrites=_find_overwrites([state[i] for state in states]),
            )


# -- which copies there are ------------------------------------------------------------------------


def list_copies(model: nn.Module, around: Surroundings) -> Iterator[Copy]:
    """The copies that no optimizer holds, each with the trained weights of the same shapes."""
    held = {
        id(p) for _, o in around.optimizers.values() for g in o.param_groups for p in g["params"]
    }
    models = {id(model): ("model", model)} | around.models
    modules = [
        (f"{name}.{fqn}" if fqn else name, module)
        for name, root in models.values()
        for fqn, module, first in named_modules(root)
        if first
    ]
    known = [(name, m, list(m.parameters())) for name, m in modules]
    known = [entry for entry in known if sum(p.numel() for p in entry[2]) > 8]
    trained = [(n, m, ps) for n, m, ps in known if all(id(p) in held for p in ps)]
    covered: set[int] = set()
    for name, copy, own in known:
        if covered & set(map(id, own)) or any(id(p) in held for p in own):
            continue
        for other, of, weights in trained:
            if list(map(_shape, own)) == list(map(_shape, weights)):
                covered |= set(map(id, own))
                yield Copy(
                    name=name, of=other, read=_parameters(copy), read_of=_parameters(of),
                    modules=(copy, of),
                )  # fmt: skip
                break
    for name, read, _ in around.variables:
        value = read()
        tensors = _tensors(value)
        for other, of, weights in trained if tensors else ():
            if list(map(_shape, tensors)) == list(map(_shape, weights)):
                yield Copy(name=name, of=other, read=_of_variable(read), read_of=_parameters(of))
                break


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _parameters(module: nn.Module) -> Reading:
    return lambda: list(module.parameters())


def _of_variable(read: Callable[[], Any]) -> Reading:
    return lambda: _tensors(read())


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of a dict or list that holds nothing else."""
    if not isinstance(value, Mapping | list | tuple) or not value:
        return []
    items = list(value.values()) if isinstance(value, Mapping) else list(value)
    is_plain = all(isinstance(i, Tensor) and not isinstance(i, nn.Parameter) for i in items)
    return items if is_plain else []


# -- how they follow -------------------------------------------------------------------------------


def _read(pairs: list[Copy]) -> list[tuple[Tensor, Tensor]]:
    """Each copy and what it is of, as vectors."""
    return [(_flatten(pair.read()), _flatten(pair.read_of())) for pair in pairs]


def _flatten(tensors: list[Tensor]) -> Tensor:
    floating = [t for t in tensors if t.is_floating_point()][:MOST]
    parts = [t.detach().reshape(-1)[:LONGEST].double().cpu() for t in floating]
    return torch.cat(parts) if parts else torch.zeros(0)


def _find_overwrites(states: list[tuple[Tensor, Tensor]]) -> tuple[int, ...]:
    """The steps, from 1, at whose end the trained weights are the copy's to the bit, and near to
    what it was before, although it followed them as an average until then.
    """
    found: list[int] = []
    followed = 0
    for step, ((copy, of), (copy_after, of_after)) in enumerate(itertools.pairwise(states), 1):
        if not len(copy) == len(of) == len(copy_after) == len(of_after):
            return ()
        is_same = torch.equal(copy_after, of_after)
        far = float((of - copy).norm())
        if is_same and followed > 1 and float((of_after - copy).norm()) < NEAR * far:
            found.append(step)
        followed = 0 if is_same else followed + (not torch.equal(copy, copy_after))
    return tuple(found)


def _fit(
    copy: Tensor, of: Tensor, copy_after: Tensor, of_after: Tensor
) -> tuple[float, float] | None:
    """The weight w of what it is of, and the sum s of both, in copy = (s - w) * copy + w * of: of
    the weights before or after the optimizer's step, whichever explains the change. None where
    neither does.
    """
    change = copy_after - copy
    size = float(change.norm())
    if size == 0 or len({len(v) for v in (copy, of, copy_after, of_after)}) > 1:
        return None
    best: tuple[float, float, float] | None = None
    for weights in (of_after, of):
        columns = torch.stack([weights - copy, copy], dim=1)
        solved = torch.linalg.lstsq(columns, change[:, None], driver="gelsd").solution[:, 0]
        left = float((columns @ solved - change).norm()) / size
        if best is None or left < best[0]:
            best = left, float(solved[0]), float(solved[1])
            grown = abs(best[2]) * float(copy.norm()) / size
            if grown < FITS:  # within the rounding of the weights
                best = left, best[1], 0.0
    if best is None or best[0] > FITS:
        return None
    return best[1], 1.0 + best[2]
