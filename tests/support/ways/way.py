"""A way to run a model: a tiny model, how its user calls it, and a layer that is called inside."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Way:
    """A model, its inputs, and how its user calls it."""

    model: nn.Module
    args: tuple[Any, ...]
    inner: str = "0"  # a module that the call reaches
    call: Callable[[nn.Module, tuple[Any, ...]], Any] = lambda model, args: model(*args)
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    loss: Callable[..., Any] = field(
        default=lambda output, *_: first_tensor(output).float().pow(2).mean()
    )


def first_tensor(output: Any) -> torch.Tensor:
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return output


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (5, 4)), generator=torch.Generator().manual_seed(1))


class Holder(nn.Module):
    """A model around a child, with a layer of its own."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.child = child

    def forward(self, x):
        return self.child(self.first(x))
