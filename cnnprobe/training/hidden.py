"""Modules and tensors that hang on a model without being registered, and what parameters hold."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cnnprobe.diagnosis.evidence import Hidden, Values
from cnnprobe.recorder.execution import list_unsharded
from cnnprobe.recorder.inventory import is_leaf, named_modules
from cnnprobe.recorder.values import EXACT
from cnnprobe.stats import summarise
from cnnprobe.training.tables import is_random

_OWN = frozenset(nn.Module().__dict__)
_DEEPEST = 3
_MOST = 256  # items of a container that are looked at


class HiddenThing:
    """A module or tensor found outside the registries, with how to find it again."""

    def __init__(
        self,
        owner: str,
        module: nn.Module,
        attribute: str,
        *,
        name: str,
        value: Any,
        containers: tuple[str, ...] = (),
    ) -> None:
        self.owner = owner
        self.module = module
        self.attribute = attribute
        self.name = name
        self.value = value
        self.containers = containers
        self.holder = module.__dict__.get(attribute)

    @property
    def fqn(self) -> str:
        """Owner and name together."""
        return f"{self.owner}.{self.name}" if self.owner else self.name

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Itself, or a module's parameters."""
        if isinstance(self.value, Tensor):
            yield self.fqn, self.value
        else:
            yield from ((f"{self.fqn}.{name}", p) for name, p in self.value.named_parameters())


def find_hidden(model: nn.Module) -> list[HiddenThing]:
    """Everything hidden in attributes, lists, tuples and dicts of the model's own modules."""
    registered = {id(module) for _, module, _ in named_modules(model)}
    tensors = {
        id(t)
        for _, m, _ in named_modules(model)
        for r in (m._parameters, m._buffers)
        for t in r.values()
        if t is not None
    }
    found: list[HiddenThing] = []
    seen: set[int] = set()
    for fqn, module, first in named_modules(model):
        if not first or is_leaf(module):
            continue
        for attribute, value in list(module.__dict__.items()):
            if attribute in _OWN:
                continue
            for name, item, kinds in _items(attribute, value):
                if id(item) in seen or id(item) in registered or id(item) in tensors:
                    continue
                seen.add(id(item))
                found.append(
                    HiddenThing(fqn, module, attribute, name=name, value=item, containers=kinds)
                )
    return found


def _items(
    name: str, value: Any, within: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Modules and tensors, each with its name and what it lies in."""
    if isinstance(value, Tensor | nn.Module):
        yield name, value, within
    elif len(within) < _DEEPEST and isinstance(value, list | tuple):
        for i, item in enumerate(value[:_MOST]):
            yield from _items(f"{name}[{i}]", item, (*within, "list"))
    elif len(within) < _DEEPEST and isinstance(value, dict):
        kind = "dict" if all(isinstance(key, str) for key in value) else "numbered"
        for key, item in list(value.items())[:_MOST]:
            yield from _items(f"{name}[{key!r}]", item, (*within, kind))


def names_of(model: nn.Module, hidden: list[HiddenThing]) -> dict[int, str]:
    """The name of every parameter and hidden tensor, by its id; an attribute that is no leaf goes
    by the leaf it was made from.
    """
    names: dict[int, str] = {}
    for fqn, module, first in named_modules(model):
        if first:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    names.setdefault(id(parameter), f"{fqn}.{name}" if fqn else name)
    for name, whole in list_unsharded(model):
        names.setdefault(id(whole), name)
    for thing in hidden:
        for name, tensor in thing.tensors():
            names.setdefault(id(tensor), name)
            for leaf in _leaves_behind(tensor):
                names.setdefault(id(leaf), name)
    return names


def _leaves_behind(tensor: Tensor) -> Iterator[Tensor]:
    """The leaves of the few operations, `.to(device)` or `* 0.01`, that made a parameter-to-be a
    plain tensor.
    """
    stack = [(tensor.grad_fn, 0)] if tensor.grad_fn is not None else []
    while stack:
        node, depth = stack.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable
        elif depth < 8:
            stack.extend(
                (following, depth + 1)
                for following, _ in node.next_functions
                if following is not None
            )


def describe_hidden(
    hidden: list[HiddenThing], used: set[str], before: Mapping[str, int]
) -> tuple[Hidden, ...]:
    """The data of it; `used` are names that a row read or a graph reached, `before` the id of each
    attribute before the forward.
    """
    described = []
    for thing in hidden:
        tensors = list(thing.tensors())
        is_module = isinstance(thing.value, nn.Module)
        trainable = any(t.requires_grad for _, t in tensors)
        described.append(
            Hidden(
                owner=thing.owner,
                name=thing.name,
                kind="module" if is_module else "parameter" if trainable else "tensor",
                type=type(thing.value).__name__,
                shape=() if is_module else tuple(thing.value.shape),
                trainable=trainable,
                used=any(name in used for name, _ in tensors),
                containers=thing.containers,
                stable=before.get(thing.fqn) == id(thing.module.__dict__.get(thing.attribute)),
            )
        )
    return tuple(described)


def values_of(model: nn.Module) -> dict[str, Values]:
    """What every parameter and buffer holds."""
    found: dict[str, Values] = {}
    for fqn, module, first in named_modules(model):
        if not first:
            continue
        for registry in (module._parameters, module._buffers):
            for name, tensor in registry.items():
                if (
                    tensor is not None
                    and not is_lazy(tensor)
                    and tensor.numel()
                    and tensor.device.type != "meta"
                    and tensor.layout is torch.strided
                ):
                    values = _values(tensor.detach())
                    if _is_frozen_table(module, tensor):
                        values = replace(values, random=is_random(tensor))
                    found[f"{fqn}.{name}" if fqn else name] = values
    return found


def _is_frozen_table(module: nn.Module, tensor: Tensor) -> bool:
    return (
        isinstance(module, nn.Embedding | nn.EmbeddingBag)
        and not tensor.requires_grad
        and tensor.dim() == 2
        and tensor.is_floating_point()
        and type(tensor) in EXACT
    )


def _values(tensor: Tensor) -> Values:
    found = summarise(tensor)
    if found is None or found.count == found.nan + found.inf:
        return Values(
            shape=tuple(tensor.shape),
            norm=0.0,
            mean=0.0,
            std=0.0,
            low=0.0,
            high=0.0,
            nonfinite=0 if found is None else found.count,
            infinite=0 if found is None else found.inf,
        )
    return Values(
        shape=tuple(tensor.shape),
        norm=found.l2,
        mean=found.mean,
        std=found.std,
        low=found.min,
        high=found.max,
        nonfinite=found.nan + found.inf,
        infinite=found.inf,
        distinct_rows=_distinct_rows(tensor)
        if tensor.dim() > 1 and tensor.is_floating_point() and type(tensor) in EXACT
        else None,
    )


def _distinct_rows(tensor: Tensor) -> int:
    """Two random projections tell rows apart at the price of reading them once."""
    flat = tensor.reshape(tensor.shape[0], -1)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(1, flat.shape[1], generator=generator).to(flat)
    return len(
        set((flat * direction).sum(1).tolist())
    )  # not by matmul, which may sum equal rows in different orders


def list_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each parameter once, with its name."""
    seen: set[int] = set()
    for fqn, module, first in named_modules(model):
        if first:
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{fqn}.{name}" if fqn else name), parameter
