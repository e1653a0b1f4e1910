"""Counts the backward passes whose gradients are cleared before any step, while a later pass is
stepped with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnprobe.recorder.inventory import has_values
from cnnprobe.recorder.values import EXACT, read_dense


@dataclass(slots=True)
class _Pass:
    nodes: frozenset[int]
    alone: bool  # its graph ends at the model's parameters only: no gradient of an input was wanted
    weights: float  # tells whether somebody used the gradients to move the weights (SAM)
    cleared: bool = False
    is_finite: bool = True  # gradients that overflowed are cleared on purpose


class Waste:
    """What happens between one step of an optimizer and the next, in one training step or several.

    A pass is wasted where its gradients are cleared, nothing moved, and another pass through a
    graph of its own follows that is stepped with. Gradients that are collected and put back by hand
    (PCGrad), asked for at an input (adversarial examples), or not finite are not wasted.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters
        self.total = 0
        self._passes: list[_Pass] = []
        self._made: dict[str, int] = {}  # where the gradients of the last pass lie

    def backward(self, nodes: frozenset[int], *, alone: bool) -> None:
        """A pass begins."""
        self._passes.append(_Pass(nodes, alone, self._weights()))

    def backward_done(self, *, is_finite: bool) -> None:
        """It ended."""
        self._made = self._places()
        if self._passes:
            self._passes[-1].is_finite = is_finite

    def zero_grad_done(self) -> None:
        """Some gradients were cleared; what matters is whether all were."""
        if self._passes and not any(
            p.grad is not None and bool((p.grad != 0).any()) for p in self.parameters.values()
        ):
            for each in self._passes:
                each.cleared = True

    def step(self) -> None:
        """An optimizer is about to step."""
        last = self._passes[-1] if self._passes else None
        if last is not None and not last.cleared and self._places() == self._made:
            earlier = [p for p in self._passes[:-1] if p.cleared and p.alone and p.is_finite]
            self.total += sum(
                1 for p in earlier if p.weights == last.weights and not p.nodes & last.nodes
            )
        self._passes = []

    def step_done(self) -> None:
        """It stepped; what a closure computed within is its own."""
        self._passes = []

    def _places(self) -> dict[str, int]:
        return {
            name: p.grad.data_ptr()
            for name, p in self.parameters.items()
            if p.grad is not None and type(p.grad) in EXACT and p.grad.layout is torch.strided
        }

    def _weights(self) -> float:
        known = filter(has_values, self.parameters.values())
        sums = [read_dense(p).sum() for p in known]
        return sum(float(s.real) + float(s.imag) if s.is_complex() else float(s) for s in sums)
