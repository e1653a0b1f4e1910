"""What a user's train_step works with: the models, optimizers, schedulers and variables that it
reaches, with their names.
"""

import dis
import functools
import inspect
import os
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnprobe.recorder.sources import is_users

_GLOBALS = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "LOAD_NAME", "STORE_NAME"})
_REGISTRIES = frozenset(nn.Module().__dict__)
_EXAMPLES = "cnnprobe.rulebook."  # steps of the rules' own examples
_DEEPEST = 4  # functions calling functions, trainers holding trainers
Place = tuple[
    str, Callable[[], Any], Callable[[Any], None]
]  # the variable's name, how to read and how to write it


@dataclass(slots=True)
class Surroundings:
    """Models, optimizers and schedulers by the user's names, each once, and the variables to be put
    back afterwards.
    """

    models: dict[int, tuple[str, nn.Module]] = field(default_factory=dict)
    optimizers: dict[int, tuple[str, Optimizer]] = field(default_factory=dict)
    schedulers: dict[int, tuple[str, Any]] = field(default_factory=dict)
    variables: list[Place] = field(default_factory=list)
    # the user's functions that the step is made of
    functions: list[types.FunctionType] = field(default_factory=list)

    def add(self, name: str, value: Any) -> bool:
        """Take in a model, an optimizer or a scheduler; False if it is none of them."""
        if isinstance(value, nn.Module):
            self.models.setdefault(id(value), (name, value))
        elif isinstance(value, Optimizer):
            self.optimizers.setdefault(id(value), (name, value))
        elif isinstance(value, LRScheduler) or type(value).__name__ == "ReduceLROnPlateau":
            self.schedulers.setdefault(id(value), (name, value))
            inner = getattr(value, "optimizer", None)
            if isinstance(inner, Optimizer):
                self.optimizers.setdefault(id(inner), ("optimizer", inner))
        else:
            return False
        return True


def look_around(train_step: Callable[..., Any] | None, given: dict[str, Any]) -> Surroundings:
    """What the train_step reaches by closure, globals, defaults, partial arguments or its object;
    `given` are known by their names.
    """
    found = Surroundings()
    for name, value in given.items():
        found.add(name, value)
    seen: set[int] = set()
    _follow(found, [(train_step, 0)], seen)
    if train_step is not None:
        for name, model in list(found.models.values()):
            _look_into(found, name, model, seen)
    return found


def _follow(found: Surroundings, stack: list[tuple[Any, int]], seen: set[int]) -> None:
    """Take in what these subjects reach, each with its depth."""
    while stack:
        subject, depth = stack.pop()
        if subject is None or id(subject) in seen or depth > _DEEPEST:
            continue
        seen.add(id(subject))
        if isinstance(subject, types.FunctionType) and (
            not _is_torchs(subject) or subject.__module__.startswith(_EXAMPLES)
        ):
            found.functions.append(subject)
        for name, read, write in _places(subject):
            value = read()
            if isinstance(value, types.ModuleType | type):
                continue
            if found.add(name, value):
                continue
            found.variables.append((name, read, write))
            for place, item in _items(name, value):
                found.add(place, item)
            if callable(value) or _is_users(value):
                stack.append((value, depth + 1))


def _look_into(found: Surroundings, name: str, model: nn.Module, seen: set[int]) -> None:
    """Take in the optimizers, schedulers and objects that hang on a model, as on one with a step of
    its own.
    """
    for attribute, value in list(vars(model).items()):
        if attribute in _REGISTRIES or isinstance(value, nn.Module):
            continue
        place = f"{name}.{attribute}"
        for part, item in [(place, value), *_items(place, value)]:
            if not isinstance(item, nn.Module):
                found.add(part, item)
        if _is_users(value) or isinstance(value, GradScaler):
            read = functools.partial(getattr, model, attribute, None)
            write = functools.partial(vars(model).__setitem__, attribute)
            found.variables.append((place, read, write))
            _follow(found, [(value, 1)], seen)


def _items(name: str, value: Any) -> list[tuple[str, Any]]:
    """What a plain container holds, by place."""
    items = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, tuple | list)
        else ()
    )
    return [(f"{name}[{i}]", item) for i, item in enumerate(list(items)[:64])]


def _places(subject: Any) -> Iterator[Place]:
    if isinstance(subject, functools.partial):
        for i, value in enumerate((*subject.args, *subject.keywords.values(), subject.func)):
            yield f"argument {i}", _constant(value), _ignore
    elif isinstance(subject, types.MethodType):
        yield from _attributes(subject.__self__)
        yield "function", _constant(subject.__func__), _ignore
    elif isinstance(subject, types.FunctionType):
        yield from _of_function(subject)
    elif _is_users(subject):
        yield from _attributes(subject)
        call = getattr(type(subject), "__call__", None)  # noqa: B004 - the function itself is wanted
        if isinstance(call, types.FunctionType):
            yield "call", _constant(call), _ignore


def _is_users(value: Any) -> bool:
    module = type(value).__module__ or ""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, type | types.ModuleType)
        and not module.startswith(("torch", "builtins", "numpy", "cnnprobe"))
    )


def _of_function(function: types.FunctionType) -> Iterator[Place]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        if _is_filled(cell):
            yield (
                name,
                functools.partial(getattr, cell, "cell_contents"),
                functools.partial(setattr, cell, "cell_contents"),
            )
    if _is_torchs(function):
        return
    space = function.__globals__
    for name in sorted(_names(function.__code__)):
        if name in space:
            yield (
                name,
                functools.partial(space.get, name),
                functools.partial(space.__setitem__, name),
            )
    for i, value in enumerate(function.__defaults__ or ()):
        yield f"default {i}", _constant(value), _ignore


def is_own(code: types.CodeType) -> bool:
    """Whether code is the user's own, or an example of a rule: not of an installed package."""
    place = code.co_filename
    if f"{os.sep}cnnprobe{os.sep}rulebook{os.sep}" in place:
        return True
    return is_users(place) and f"{os.sep}site-packages{os.sep}" not in place


def _is_torchs(function: types.FunctionType) -> bool:
    return (function.__module__ or "").startswith(("torch.", "cnnprobe."))


def _names(code: types.CodeType) -> set[str]:
    """The globals that a function names; of an attribute of the same name it says nothing."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in _GLOBALS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _attributes(instance: Any) -> Iterator[Place]:
    attributes: dict[str, Any] = getattr(instance, "__dict__", None) or {}
    for name in list(attributes):
        yield (
            f"self.{name}",
            functools.partial(getattr, instance, name, None),
            functools.partial(attributes.__setitem__, name),
        )


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _ignore(value: Any) -> None:
    """A place that cannot be assigned to."""


_ROLES = {
    "model": ("model", "net", "network", "module", "m"),
    "inputs": (
        "inputs",
        "input",
        "x",
        "xb",
        "images",
        "image",
        "imgs",
        "img",
        "data",
        "features",
        "batch_x",
        "x_batch",
        "xs",
    ),
    "targets": ("targets", "target", "y", "yb", "labels", "label", "batch_y", "y_batch", "ys", "t"),
    "batch": ("batch", "sample", "minibatch"),
    "optimizer": ("optimizer", "optim", "opt", "optimiser"),
    "loss_fn": ("loss_fn", "criterion", "loss", "loss_func", "loss_function", "crit"),
    "scheduler": ("scheduler", "sched", "lr_scheduler"),
    "index": ("batch_idx", "batch_index", "idx", "i", "step", "epoch", "iteration", "global_step"),
}
_ORDER = {
    2: ("inputs", "targets"),
    3: ("model", "inputs", "targets"),
    4: ("model", "inputs", "targets", "optimizer"),
}


def _order_roles(count: int, is_single: bool) -> tuple[str, ...]:
    """What parameters mean by their number, where their names do not tell."""
    if count == 1:
        return ("inputs",) if is_single else ("batch",)
    usual = ("model", "inputs", "targets", "optimizer", "loss_fn", "scheduler")
    return _ORDER.get(count, usual)


def _is_open(parameter: inspect.Parameter, value: Any) -> bool:
    """Whether a parameter with a default is to get a value: a temperature T=4 is no target."""
    return value is not None and not isinstance(parameter.default, bool | int | float | str)


def arguments_of(
    train_step: Callable[..., Any], available: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments that a train_step wants, by the names of its parameters, else by their number:
    as many as the batch has parts are its parts.

    `available` has "model", "inputs", "targets", "batch", "optimizer", "loss_fn", "scheduler" and
    "index", the number of the batch.
    """
    try:
        parameters = list(inspect.signature(train_step).parameters.values())
    except (TypeError, ValueError):
        return [available["inputs"], available["targets"]], {}
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and not [
        p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
    ]:
        return [available["inputs"], available["targets"]], {}
    wanted = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    roles = [
        next((role for role, names in _ROLES.items() if p.name.lower() in names), None)
        if k == 0 or p.name != "m"  # masks, behind the images
        else None
        for k, p in enumerate(wanted)
    ]
    required = [i for i, p in enumerate(wanted) if p.default is p.empty]
    known = [role for role in roles if role is not None]
    alone = (
        len(required) == 1 and roles[required[0]] == "targets" and available.get("targets") is None
    )
    is_repeated = len(set(known)) < len(known)
    spread = _spread_batch([wanted[i] for i in required], [roles[i] for i in required], available)
    if not spread and (any(roles[i] is None for i in required) or is_repeated or alone):
        is_single = available.get("targets") is None or is_repeated
        for i, meant in zip(required, _order_roles(len(required), is_single), strict=False):
            roles[i] = meant
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for i, (parameter, role) in enumerate(zip(wanted, roles, strict=True)):
        is_wanted = role is not None and (i in required or _is_open(parameter, available.get(role)))
        if not is_wanted and parameter.name not in spread:
            continue
        value = spread.get(parameter.name, available.get(role or ""))
        if parameter.kind is parameter.POSITIONAL_ONLY:
            args.append(value)
        else:
            kwargs[parameter.name] = value
    return args, kwargs


def _spread_batch(
    required: list[inspect.Parameter], roles: list[str | None], available: dict[str, Any]
) -> dict[str, Any]:
    """The parts of a batch by the parameters that stand for them; empty where their number is
    another, or inputs and targets are meant.
    """
    inputs, targets = available["inputs"], available.get("targets")
    parts = [*_list_parts(inputs), *_list_parts(targets)]
    places = [
        (p.name, role)
        for p, role in zip(required, roles, strict=True)
        if role in (None, "inputs", "targets")
    ]
    meant = [role for _, role in places]
    are_known = None not in meant and (targets is not None or "targets" not in meant)
    if len(places) < 2 or len(places) != len(parts) or are_known:
        return {}
    by_name = dict(inputs) if isinstance(inputs, Mapping) else {}
    in_order = zip(places, parts, strict=True)
    return {name: by_name.get(name, part) for (name, _), part in in_order}


def _list_parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if value is None:
        return []
    return list(value) if isinstance(value, tuple | list) else [value]
