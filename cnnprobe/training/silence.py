"""Remembers which rows of each weight have had a gradient of exactly zero in every backward
pass.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cnnprobe.recorder.inventory import has_values
from cnnprobe.recorder.values import EXACT

MOST = 65536  # rows; a table of embeddings has more, and most of them wait for their word


class Silence:
    """The rows, along dim 0, of every weight with two dims or more."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._silent: dict[str, Tensor | None] = {
            name: None
            for name, p in parameters.items()
            if p.requires_grad and p.dim() > 1 and p.shape[0] <= MOST and has_values(p)
        }
        self._parameters = parameters

    def backward_done(self) -> None:
        """Gradients are there; a weight without one says nothing."""
        for name in list(self._silent):
            grad = self._parameters[name].grad
            if grad is None or grad.layout is not torch.strided or type(grad) not in EXACT:
                continue
            zero = ~(grad.detach() != 0).flatten(1).any(1)
            before = self._silent[name]
            zero = zero if before is None else zero & before
            if bool(zero.any()):
                self._silent[name] = zero
            else:
                del self._silent[name]  # each row has had one: nothing more to see

    def count(self) -> dict[str, int]:
        """How many rows of each weight have had no other gradient than zero."""
        return {name: int(zero.sum()) for name, zero in self._silent.items() if zero is not None}
