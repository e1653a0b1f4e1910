"""What of a copy of trained weights is left behind: parameters and statistics that stay as they are
while those that they are copies of change.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import LeftBehind
from cnnprobe.recorder.inventory import has_values, named_modules

LONGEST = 1 << 14  # elements of one tensor that are compared
STATISTICS = ("running_mean", "running_var")
# A part of the expected change that a float has to be able to hold, to say that it is missing.
SHARE = 0.25


@dataclass(slots=True)
class Still:
    """A copy and its original over the steps."""

    name: str
    of: str
    copy: nn.Module
    original: nn.Module
    before: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    is_called: bool = False
    # normalisation layers of the copy that were called with their stored statistics
    evaluated: set[str] = field(default_factory=set)


@contextlib.contextmanager
def watch_calls(pairs: list[Still]) -> Iterator[None]:
    """Remember what the pairs hold, and note which modules of the copies are called."""
    handles = []
    for still in pairs:
        still.before = {name: (_read(a), _read(b)) for name, a, b in _list_pairs(still)}
        for fqn, module, first in named_modules(still.copy):
            if first:
                handles.append(module.register_forward_pre_hook(_Note(still, fqn)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Note:
    """A hook that writes down the call of a module."""

    def __init__(self, still: Still, fqn: str) -> None:
        self.still, self.fqn = still, fqn

    def __call__(self, module: nn.Module, _: object) -> None:
        self.still.is_called = True
        if not module.training and getattr(module, "running_mean", None) is not None:
            self.still.evaluated.add(self.fqn)


def find_left_behind(pairs: list[Still]) -> Iterator[LeftBehind]:
    """The copies of which a part follows and another does not; and those that do not follow at all
    while the copy beside them does.
    """
    paces = [_measure_pace(still) for still in pairs]
    for still, pace in zip(pairs, paces, strict=True):
        if pace:
            left = _list_left(still, pace)
            parameters = tuple(name for name in left if not _is_statistic(name))
            statistics = tuple(
                name
                for name in left
                if _is_statistic(name) and name.rpartition(".")[0] in still.evaluated
            )
            if parameters or statistics:
                yield LeftBehind(
                    name=still.name, of=still.of, parameters=parameters, statistics=statistics
                )
            continue
        for other, its_pace in zip(pairs, paces, strict=True):
            if its_pace and still.is_called and _are_siblings(still, other):
                parameters = tuple(_list_left(still, its_pace))
                if parameters:
                    yield LeftBehind(
                        name=still.name, of=still.of, parameters=parameters, sibling=other.name
                    )
                    break


def _measure_pace(still: Still) -> float:
    """By which share of its distance from the original the copy has moved; 0 where it has not."""
    moved, far = 0.0, 0.0
    for name, own, other in _list_pairs(still):
        before = still.before.get(name)
        if before is not None and not _is_statistic(name) and own.is_floating_point():
            change = float((_read(own) - before[0]).double().norm())
            if change:
                moved += change
                far += float((_read(other) - before[0]).double().norm())
    return min(1.0, moved / far) if far else 0.0


def _list_left(still: Still, pace: float) -> list[str]:
    """The tensors that have stayed, though the original's have moved by more than what the copy
    could lose by rounding at its pace.
    """
    left = []
    for name, own, other in _list_pairs(still):
        before = still.before.get(name)
        if before is None or not own.is_floating_point():
            continue
        now, of = _read(own), _read(other)
        if torch.equal(now, before[0]) and not torch.equal(of, before[1]):
            smallest = torch.finfo(now.dtype).eps * now.abs()
            if bool(((of - now).abs() * pace * SHARE > smallest).any()):
                left.append(name)
    return left


def _are_siblings(still: Still, other: Still) -> bool:
    """Whether two copies are named alike and differ in the same way from their originals: head_k of
    head_q, encoder_k of encoder_q.
    """
    same_place = still.name.rpartition(".")[0] == other.name.rpartition(".")[0]
    return same_place and _compare(still.name, still.of) == _compare(other.name, other.of)


def _compare(name: str, of: str) -> tuple[str, str]:
    """What two names differ in, by parts between dots and underscores.

    >>> _compare("moco.encoder_k", "moco.encoder_q"), _compare("target_net", "online_net")
    (('k', 'q'), ('target', 'online'))
    """
    own, other = (text.replace(".", "_").split("_") for text in (name, of))
    while own and other and own[0] == other[0]:
        own, other = own[1:], other[1:]
    while own and other and own[-1] == other[-1]:
        own, other = own[:-1], other[:-1]
    return "_".join(own), "_".join(other)


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in STATISTICS


def _list_pairs(still: Still) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The parameters and statistics of equal names and shapes."""
    others = dict(_list_tensors(still.original))
    for name, tensor in _list_tensors(still.copy):
        other = others.get(name)
        if other is not None and other.shape == tensor.shape and has_values(tensor):
            yield name, tensor, other


def _list_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from (pair for pair in module.named_buffers() if _is_statistic(pair[0]))


def _read(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1)[:LONGEST].clone()
