"""Puts back what training steps change: parameters, gradients, buffers, optimizers, schedulers,
variables, inputs.
"""

import collections
import contextlib
import copy
import types
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnprobe.recorder.devices import outliving_devices
from cnnprobe.recorder.inventory import has_values, named_modules
from cnnprobe.recorder.preservation import (
    ModuleState,
    preserved_generators,
    read_version,
    write_version,
)
from cnnprobe.training.surroundings import Surroundings

MOST = 4096  # tensors in a container that are kept


class TensorState:
    """The values of tensors, and of the gradients that they had."""

    def __init__(self, values: Iterable[Any]) -> None:
        """Of the values, those that are tensors."""
        unique = {id(t): t for t in values if isinstance(t, Tensor) and has_values(t)}
        gradients = {
            id(t.grad): t.grad for t in unique.values() if t.is_leaf and t.grad is not None
        }
        with torch.no_grad():
            self._copies = [
                (
                    t,
                    t.detach(),
                    t.detach().clone(),
                    read_version(t),
                )
                for t in (unique | gradients).values()
            ]

    def restore(self) -> None:
        """Write the values back where they may have changed, with the version counters that they
        had.
        """
        with torch.no_grad():
            for tensor, place, saved, version in self._copies:
                # Its own memory, not the copy's: what is put back can be put back again.
                if _address(tensor) != _address(place):
                    tensor.data = place
                if (
                    tensor.is_inference()
                    or read_version(tensor) != version
                    or not _equal(tensor, saved)
                ):
                    tensor.detach().copy_(saved)
                if version is not None and read_version(tensor) != version:
                    write_version(tensor, version)


def _address(tensor: Tensor) -> int:
    """Where the values of an ordinary tensor begin; 0 for one that has no single place."""
    try:
        return tensor.data_ptr() if tensor.layout is torch.strided else 0
    except RuntimeError:  # fake tensors and other subclasses
        return 0


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether the values are the same; those that cannot be compared are told by their version
    alone.
    """
    try:
        return a.shape == b.shape and bool(torch.equal(a.detach(), b))
    except Exception:  # sparse, nested, fake and distributed tensors refuse, each in its own way
        return True


class OptimizerState:
    """An optimizer's groups and state; the values of its `tensors` are kept by another."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [
            (
                group,
                {k: _copied(v) for k, v in group.items() if k != "params"},
                list(group["params"]),
            )
            for group in optimizer.param_groups
        ]
        self._list = list(optimizer.param_groups)
        self._state = [
            (p, entry, dict(entry) if isinstance(entry, dict) else None)
            for p, entry in optimizer.state.items()
        ]
        self._attributes = AttributeState(optimizer, skip=("state", "param_groups"))
        held = [
            v
            for _, entry, _ in self._state
            if isinstance(entry, dict)
            for v in entry.values()
            if isinstance(v, Tensor)
        ]
        rates = [
            v for group in optimizer.param_groups for v in group.values() if isinstance(v, Tensor)
        ]
        self.tensors: list[Tensor] = [
            *held, *rates, *(p for group in optimizer.param_groups for p in group["params"])
        ]  # fmt: skip
        self._flags = [
            (p, p.requires_grad, p.grad)
            for group in optimizer.param_groups
            for p in group["params"]
        ]
        self._others = [
            (entry, k, copy.deepcopy(v))
            for _, entry, _ in self._state
            if isinstance(entry, dict)
            for k, v in entry.items()
            if not isinstance(v, Tensor | nn.Module) and not callable(v)
        ]

    def restore(self) -> None:
        """Put groups, state and attributes back."""
        self._optimizer.param_groups[:] = self._list
        for group, settings, parameters in self._groups:
            for name in [n for n in group if n != "params" and n not in settings]:
                del group[name]
            group.update(settings)
            group["params"][:] = parameters
        self._optimizer.state.clear()
        for parameter, entry, content in self._state:
            self._optimizer.state[parameter] = entry
            if content is not None:
                entry.clear()
                entry.update(content)
        for entry, key, value in self._others:
            entry[key] = value
        self._attributes.restore()
        for parameter, requires_grad, grad in self._flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


def _copied(value: Any) -> Any:
    return (
        list(value)
        if isinstance(value, list)
        else dict(value)
        if isinstance(value, dict)
        else value
    )


class AttributeState:
    """An object's attributes, and what plain containers among them hold."""

    def __init__(self, subject: Any, skip: tuple[str, ...] = ()) -> None:
        self._dict = subject.__dict__
        self._skip = skip
        self._values = {k: v for k, v in self._dict.items() if k not in skip}
        self._contents = [
            ContainerState(v) for v in self._values.values() if ContainerState.fits(v)
        ]

    def restore(self) -> None:
        """Put them back, and take away what is new."""
        for name in [n for n in self._dict if n not in self._values and n not in self._skip]:
            del self._dict[name]
        self._dict.update(self._values)
        for content in self._contents:
            content.restore()


class ContainerState:
    """What a list, dict, set or deque holds, one level deep."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._items = copy.copy(container)

    @staticmethod
    def fits(value: Any) -> bool:
        """Whether it is a container of a kind that can be refilled."""
        return type(value) in (
            list,
            dict,
            set,
            collections.deque,
            collections.defaultdict,
            collections.Counter,
            collections.OrderedDict,
        )

    def restore(self) -> None:
        """Refill it."""
        self._container.clear()
        if isinstance(self._container, list | collections.deque):
            self._container.extend(self._items)
        else:
            self._container.update(self._items)


@contextlib.contextmanager
def kept(surroundings: Surroundings, tensors: Iterable[Tensor]) -> Iterator[list[Any]]:
    """Everything in the surroundings, the tensors and the random generators are afterwards as they
    were; gives what restores them meanwhile.
    """
    variables = [(write, read()) for _, read, write in surroundings.variables]
    values = [value for _, value in variables]
    models = [ModuleState(named_modules(model)) for _, model in surroundings.models.values()]
    nested = [each for value in values for each in _list_nested(value)]
    shapes = {p.shape for model in models for p in model.parameters}
    inner = list(
        _list_inner(
            value
            for held in (surroundings.optimizers, surroundings.schedulers)
            for _, value in held.values()
        )
    )
    optimizers = [OptimizerState(each) for each in inner if isinstance(each, Optimizer)]
    scalers = [value for value in values if isinstance(value, GradScaler)]
    held = TensorState(  # one for all, so that what several hold is kept once
        [
            *tensors,
            *(t for value in values for t in (value, *_list_tensors(value))),
            # Weights that are kept by group, say; what has another shape is data, and may be large.
            *(t for each in nested for t in _list_tensors(each) if t.shape in shapes),
            *(p for model in models for p in model.parameters),
            *(t for optimizer in optimizers for t in optimizer.tensors),
            *(v for scaler in scalers for v in vars(scaler).values()),
        ]
    )
    states: list[Any] = [
        *(ContainerState(value) for value in (*values, *nested) if ContainerState.fits(value)),
        *models,
        *optimizers,
        *(AttributeState(each) for each in inner if not isinstance(each, Optimizer)),
        *map(AttributeState, scalers),
        held,  # after what gives a parameter its gradient back
        _Variables(variables),
    ]
    with preserved_generators():
        try:
            yield states
        finally:
            with outliving_devices():
                restore(states)


def _list_inner(subjects: Iterable[Any]) -> Iterator[Any]:
    """Optimizers and schedulers, and what has a state of its own in their attributes: the optimizer
    in a SAM, the schedulers in a SequentialLR, an object that a LambdaLR calls.
    """
    stack, seen = list(subjects), set[int]()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) in (list, tuple, dict):
            if len(value) <= MOST:
                stack += value.values() if isinstance(value, dict) else value
        elif isinstance(value, Optimizer | LRScheduler) or _has_own_state(value):
            yield value
            stack += [
                inner
                for name, inner in vars(value).items()
                if not isinstance(value, Optimizer) or name not in ("state", "param_groups")
            ]


def _has_own_state(value: Any) -> bool:
    """Whether it is an object that is called, or that has a step, and no network or function."""
    return (
        hasattr(value, "__dict__")
        and (callable(value) or hasattr(value, "step"))
        and not isinstance(
            value,
            type | nn.Module | types.FunctionType | types.MethodType | types.ModuleType | partial,
        )
    )


def _list_tensors(value: Any) -> list[Tensor]:
    """The tensors in a plain container, as of an average of the weights; a longer one holds
    data.
    """
    if not isinstance(value, list | tuple | dict | collections.deque) or len(value) > MOST:
        return []
    items = value.values() if isinstance(value, dict) else value
    return [item for item in items if isinstance(item, Tensor)]


def _list_nested(value: Any) -> list[Any]:
    """The plain containers inside of one, as the weights of each group; none of those that hold
    more than MOST items in all, which are data.
    """
    found: list[Any] = []
    stack, seen, count = [value], set[int](), 0
    while stack:
        each = stack.pop()
        if not isinstance(each, list | tuple | dict | collections.deque) or id(each) in seen:
            continue
        seen.add(id(each))
        count += len(each)
        if count > MOST:
            return []
        found.append(each)
        stack += each.values() if isinstance(each, dict) else each
    return found[1:]


class _Variables:
    def __init__(self, variables: list[Any]) -> None:
        self._variables = variables

    def restore(self) -> None:
        """Assign the variables what they had."""
        for write, value in self._variables:
            with contextlib.suppress(
                Exception
            ):  # a read-only attribute was not written to by the step either
                write(value)


def restore(states: Iterable[Any]) -> None:
    """Put everything back, later ones last."""
    for state in states:
        state.restore()
