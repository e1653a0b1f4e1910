"""Watches the trainable parameters of the modules that a step works with beside the model."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Companion
from cnnprobe.recorder.inventory import has_values, named_modules
from cnnprobe.training.surroundings import Surroundings

MOST = 2000  # parameters that are watched
LONGEST = 1 << 14  # elements of one that are compared
PREFIX = "beside the model: "


@dataclass(slots=True)
class _Watched:
    """One parameter, and what was seen of it."""

    module: str
    root: nn.Module
    owner: nn.Module
    name: str
    parameter: Tensor
    before: Tensor
    graded: bool = False


class Companions:
    """The parameters beside the model, from step to step."""

    def __init__(self, names: Mapping[int, str], surroundings: Surroundings) -> None:
        self._around = surroundings
        self._watched: dict[str, _Watched] = {}
        self.ids: dict[int, str] = {}  # of each parameter its key
        for module, root in surroundings.models.values():
            for name, owner, parameter in _list_trainable(root, names):
                key = f"{PREFIX}{module}.{name}"
                if len(self._watched) < MOST and id(parameter) not in self.ids:
                    self.ids[id(parameter)] = key
                    self._watched[key] = _Watched(
                        module, root, owner, name, parameter, _read(parameter)
                    )
        self._alone: list[frozenset[str]] = []

    def begin(self) -> None:
        """A step begins."""
        self._alone = []

    def backward(self, reached: Iterable[str], *, alone: bool) -> None:
        """A graph reached these; `alone`: and no parameter of the model."""
        keys = frozenset(reached)
        if alone and keys:
            self._alone.append(keys)

    def backward_done(self) -> None:
        """A backward has left its gradients."""
        for watched in self._watched.values():
            grad = watched.parameter.grad
            if not watched.graded and grad is not None and has_values(grad):
                watched.graded = bool((grad.detach() != 0).any())

    def list_held(self, optimizer: object) -> list[str]:
        """The keys of those that an optimizer holds."""
        groups = getattr(optimizer, "param_groups", ())
        return [self.ids[id(p)] for group in groups for p in group["params"] if id(p) in self.ids]

    def list_without_gradient(self) -> list[str]:
        """The keys of those that have no gradient, or one of zero."""
        return [
            key
            for key, w in self._watched.items()
            if w.parameter.grad is None or not bool((w.parameter.grad.detach() != 0).any())
        ]

    def describe(self) -> tuple[Companion, ...]:
        """What was seen until now."""
        if not self._watched:
            return ()
        held = {
            id(p): name
            for name, optimizer in self._around.optimizers.values()
            for group in optimizer.param_groups
            for p in group["params"]
        }
        owners = {key: held.get(id(w.parameter), "") for key, w in self._watched.items()}
        alone = [
            of.pop() for of in ({owners[key] for key in keys} for keys in self._alone)
            if len(of) == 1
        ]  # fmt: skip
        return tuple(
            Companion(
                module=w.module,
                kind=type(w.root).__name__,
                name=w.name,
                shape=tuple(w.parameter.shape),
                optimizer=owners[key],
                training=w.owner.training,
                graded=w.graded,
                moved=not torch.equal(_read(w.parameter), w.before),
                alone=alone.count(owners[key]) if owners[key] else 0,
            )
            for key, w in self._watched.items()
        )


def _list_trainable(
    root: nn.Module, names: Mapping[int, str]
) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """The trainable parameters of a module that are none of the model's, with their owners."""
    for fqn, owner, first in named_modules(root):
        for name, parameter in owner._parameters.items() if first else ():
            if parameter is None or not parameter.requires_grad or id(parameter) in names:
                continue
            if has_values(parameter) and parameter.layout is torch.strided:
                yield (f"{fqn}.{name}" if fqn else name), owner, parameter


def _read(parameter: Tensor) -> Tensor:
    """The first of its values."""
    return parameter.detach().reshape(-1)[:LONGEST].clone()
