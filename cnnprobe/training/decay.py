"""Sees what the loop's own code adds to gradients and weights in multiples of the weights: a weight
decay written by hand.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cnnprobe.recorder.values import read_dense
from cnnprobe.training.norms import measure_norm

EXACT = 0.02  # what may be left of an addition that is a multiple of its weight, by rounding
LEAST = 1e-4  # the share of an update by hand that has to be the decay's


class Decay:
    """The gradients as the last backward left them, and what was added to them since."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._gradients: dict[str, Tensor] = {}
        self.found: dict[str, float] = {}  # parameter -> multiple of it in the descended gradient

    def backward_done(self) -> None:
        """Remember the gradients."""
        self._gradients = {
            name: p.grad.detach().clone()
            for name, p in self._parameters.items()
            if p.dim() > 1 and p.grad is not None and p.grad.layout is torch.strided
        }

    def step(self) -> None:
        """An optimizer is about to step: compare."""
        for name, old in self._gradients.items():
            parameter = self._parameters[name]
            if parameter.grad is not None:
                added = parameter.grad.detach() - old
                factor = _measure_multiple(added, parameter.detach())
                if factor is not None:
                    self.found[name] = factor
        self._gradients = {}

    def finish(self, before: Mapping[str, Tensor]) -> dict[str, float]:
        """The multiples; of a step without an optimizer, those in the change of the weights."""
        for name, gradient in self._gradients.items():
            if name in before:
                change = read_dense(self._parameters[name].detach() - before[name])
                factor = _split_change(change, gradient, before[name])
                if factor is not None:
                    self.found[name] = factor
        self._gradients = {}
        return self.found


def _measure_multiple(added: Tensor, weight: Tensor) -> float | None:
    """The number that makes the weight what was added; None where there is none."""
    size, scale = measure_norm(added), measure_norm(weight)
    if not 0 < size < float("inf") or not 0 < scale < float("inf"):
        return None
    factor = float((added.float() * weight.float()).sum()) / scale**2
    is_multiple = measure_norm(added - factor * weight) <= EXACT * size
    return factor if is_multiple else None


def _split_change(change: Tensor, gradient: Tensor, weight: Tensor) -> float | None:
    """How much of the weight is added to the gradient in a step of plain gradient descent; None
    where the change is no such step.
    """
    columns = torch.stack([t.flatten().double() for t in (gradient, weight)], dim=1)
    target = change.flatten().double()
    if not bool(columns.isfinite().all()) or not bool((columns != 0).any(0).all()):
        return None
    if len(target) <= 2 or not bool(target.any()):
        return None
    rate, growth = torch.linalg.lstsq(columns, target[:, None]).solution.flatten().tolist()
    part = abs(growth) * float(columns[:, 1].norm())
    rest = float((target - columns @ torch.tensor([rate, growth]).double()).norm())
    if rate >= 0 or part < LEAST * float(target.norm()) or rest > EXACT * part:
        return None
    return float(growth / rate)
