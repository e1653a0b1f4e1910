"""Leaves a loader as it was: its generators, samplers, workers, and the attributes of its data
set.
"""

import contextlib
import copy
import functools
import random
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from cnnprobe.recorder.preservation import preserved_generators

_DEEPEST = 8  # levels of attributes that are followed
_MOST = 5000  # objects that are looked at
_CACHED = 10_000  # items of a dict or a list that is copied with its data set
_ITEMS = 64  # of a container
_LEAVES = (str, bytes, bool, int, float, complex, type(None), np.ndarray, torch.Tensor, type,
           types.ModuleType)  # fmt: skip
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


@contextlib.contextmanager
def kept_generators(*subjects: Any) -> Iterator[None]:
    """Every random generator, the global ones and those that the subjects hold, is afterwards as it
    was.
    """
    found = [each for subject in subjects for each in find_generators(subject)]
    states = [(each, _read_state(each)) for each in {id(g): g for g in found}.values()]
    with preserved_generators():
        try:
            yield
        finally:
            for generator, state in states:
                _write_state(generator, state)


def find_generators(subject: Any) -> list[Any]:
    """The generators that an object reaches by attributes, items, closures and partial
    arguments.
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(subject, 0)]
    while waiting and len(seen) < _MOST:
        each, depth = waiting.pop()
        if isinstance(each, _LEAVES) or id(each) in seen or depth > _DEEPEST:
            continue
        seen.add(id(each))
        if isinstance(each, _GENERATORS):
            found.append(each)
        else:
            waiting += [(item, depth + 1) for item in _list_reached(each)]
    return found


def _list_reached(each: Any) -> list[Any]:
    if isinstance(each, dict):
        return list(each.values())[:_ITEMS]
    if isinstance(each, list | tuple | set | frozenset):
        return list(each)[:_ITEMS]
    if isinstance(each, functools.partial):
        return [each.func, *each.args, *each.keywords.values()]
    if isinstance(each, types.MethodType):
        return [each.__self__]
    if isinstance(each, types.FunctionType):
        cells = [c.cell_contents for c in each.__closure__ or () if _is_filled(c)]
        named = [each.__globals__.get(name) for name in each.__code__.co_names]
        return [
            *cells,
            *(v for v in named if isinstance(v, _GENERATORS)),
            *(each.__defaults__ or ()),
        ]
    return list((getattr(each, "__dict__", None) or {}).values())


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _read_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().clone()
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    return generator.getstate()


def _write_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.setstate(state)


def copy_loader(loader: DataLoader[Any], **settings: Any) -> DataLoader[Any]:
    """A loader of the same samples whose workers, samplers and counters are its own, with other
    settings.

    The data set is copied one level deep, so that attributes which it writes while it is read stay
    the copy's.
    """
    twin = copy.copy(loader)
    dataset = copy_dataset(loader.dataset)
    memo = {id(loader.dataset): dataset}
    own = {name: copy_deeply(getattr(loader, name), memo) for name in ("sampler", "batch_sampler")}
    twin.__dict__.update(
        own, dataset=dataset, _iterator=None, persistent_workers=False, **settings
    )  # past DataLoader.__setattr__, which allows no such change
    return twin


def copy_dataset(dataset: Any) -> Any:
    """A copy of a data set, and of those that it wraps, that shares what they hold."""
    try:
        twin = copy.copy(dataset)
        _copy_caches(twin)
        for name in ("dataset", "datasets"):
            inner = getattr(twin, "__dict__", {}).get(name)
            if isinstance(inner, list):
                twin.__dict__[name] = [copy_dataset(each) for each in inner]
            elif hasattr(inner, "__getitem__") and hasattr(inner, "__dict__"):
                twin.__dict__[name] = copy_dataset(inner)
    except Exception:  # a data set that cannot be copied is read itself
        return dataset
    return twin


def _copy_caches(twin: Any) -> None:
    """Give a copy its own dicts and lists, so that what it puts there while it is read stays its
    own.
    """
    held = getattr(twin, "__dict__", {})
    for name, value in held.items():
        if type(value) in (dict, list) and len(value) <= _CACHED:
            held[name] = value.copy()


def copy_deeply(sampler: Any, memo: dict[int, Any]) -> Any:
    """A sampler of its own, around the data set that `memo` names; itself where it cannot be
    copied.
    """
    try:
        return copy.deepcopy(sampler, dict(memo))
    except Exception:
        return sampler
