"""A call of a function of the user's that can be made again with other arguments, and what its
arguments are by their names.
"""

import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnprobe.recorder.values import leaves

MEAN = re.compile(r"(^|_)(mu|mean|means|loc)(_|$|\d)|^m$", re.IGNORECASE)
TARGET = re.compile(r"targ|label|true|^y$|^t$|mask|^gt|real|^x$", re.IGNORECASE)
# What a spread of a normal distribution is called, and which deviations `x` may stand for.
_SPREADS: tuple[tuple[str, Callable[[Tensor], tuple[Tensor, ...]]], ...] = (
    (r"log_?(var|v$|sigma_?(2|sq)|std_?2)", lambda x: ((0.5 * x).exp(),)),
    (r"log_?(std|sd|scale)|l?std_?log", lambda x: (x.exp(),)),
    (r"log_?(sig|s$)", lambda x: (x.exp(), (0.5 * x).exp())),
    (r"var|sigma_?(2|sq)", lambda x: (x.sqrt(),)),
    (r"std|stdd?ev|(^|_)sd$|scale", lambda x: (x,)),
    (r"sigma", lambda x: (x, x.sqrt())),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A function of the user's, with what it was given."""

    name: str
    function: types.FunctionType
    owner: Mapping[str, Any]  # its self
    arguments: Mapping[str, Any]
    source: str

    def again(self, **others: Any) -> Any:
        """What it gives with other arguments."""
        given = {k: copy_value(others.get(k, v)) for k, v in self.arguments.items()}
        devices = [t.device for t in self.tensors().values()]
        given |= {
            k: v.to(devices[0])
            for k, v in given.items()
            if k in others and isinstance(v, Tensor) and devices
        }
        return self.function(**self.owner, **given)

    def number(self, **others: Any) -> float:
        """The same as a number: the mean of the first tensor that it gives."""
        result = self.again(**others)
        found = [v for _, v in leaves(result) if isinstance(v, Tensor | float | int)]
        return float(torch.as_tensor(found[0]).double().mean())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors among the arguments."""
        return {k: v for k, v in self.arguments.items() if isinstance(v, Tensor)}

    def setting(self, name: str) -> float | None:
        """A number by its name: an argument, or an attribute of its owner."""
        own = next(iter(self.owner.values()), None)
        value = self.arguments.get(name, getattr(own, name, None))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A known formula: how it is named, and what every correct one does."""

    name: str
    pattern: str
    # what is expected, what was found, and what to do where it is more than the formula
    check: Callable[[Call], tuple[str, ...] | None]
    fix: str
    source: str
    without: str = "(?!)"  # in the name of another formula

    def is_named(self, name: str) -> bool:
        """Whether a function's or a class's name says this formula."""
        plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")
        return bool(re.search(self.pattern, plain)) and not re.search(self.without, plain)


def copy_value(value: Any) -> Any:
    """A copy of the tensors in a value."""
    return torch.utils._pytree.tree_map(
        lambda v: v.detach().clone() if isinstance(v, Tensor) else v, value
    )


def find_normal(call: Call) -> tuple[str, str, Callable[[Tensor], tuple[Tensor, ...]]] | None:
    """The names of the mean and the spread of a normal distribution among the arguments, and which
    deviations the spread may stand for.
    """
    tensors = [k for k, v in call.tensors().items() if v.is_floating_point()]
    spreads = [(k, to) for k in tensors for p, to in _SPREADS if re.search(p, k, re.IGNORECASE)]
    means = [k for k in tensors if MEAN.search(k) and k not in {s for s, _ in spreads}]
    if len(means) != 1 or len({s for s, _ in spreads}) != 1:
        return None
    same = call.arguments[means[0]].shape == call.arguments[spreads[0][0]].shape
    return (means[0], *spreads[0]) if same else None


def find_pair(call: Call) -> tuple[str, str] | None:
    """The names of the output and the target: the first two tensors, by their names or in this
    order.
    """
    names = list(call.tensors())[:2]
    if len(names) < 2:
        return None
    first, second = names
    if TARGET.search(first) and not TARGET.search(second):
        return second, first
    return first, second


def first_tensor(result: Any) -> Tensor | None:
    """The first tensor in what a function gives."""
    return next((v for _, v in leaves(result) if isinstance(v, Tensor)), None)
