"""Forward passes of shapes at sizes of choice: which dims of the inputs are tied to which size, and
what a pass at other sizes gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from cnnprobe.crash.model_copy import hush, is_honest
from cnnprobe.recorder import Observation
from cnnprobe.recorder.shapes import run_without_values
from cnnprobe.recorder.values import drop_output

Place = tuple[int, int]
"""A dim of an input: the tensor by its number in flatten order, and the dim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeAxis:
    """A size of the input that is varied: the dims that follow it, and its value as given."""

    name: str
    places: tuple[Place, ...]
    given: int


class Runs:
    """A model inside of `without_values`, with inputs whose sizes are chosen; each pass is made
    once.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.model = model
        self._leaves, self._tree = tree_flatten((args, dict(kwargs)))
        self._at = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        self.shapes = [tuple(self._leaves[i].shape) for i in self._at]
        self._seen: dict[tuple[tuple[int, ...], ...], Observation] = {}

    def make_inputs(self, changes: Mapping[Place, int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs with other sizes, on the meta device."""
        leaves = list(self._leaves)
        for number, shape in enumerate(self._reshape(changes)):
            leaf = self._leaves[self._at[number]]
            made = torch.empty(shape, dtype=leaf.dtype, device="meta")
            leaves[self._at[number]] = made.requires_grad_(leaf.requires_grad)
        args, kwargs = tree_unflatten(leaves, self._tree)
        return args, kwargs

    def run(self, changes: Mapping[Place, int]) -> Observation:
        """A forward pass with these sizes in place of the given ones; what it raised is kept."""
        key = tuple(self._reshape(changes))
        if key not in self._seen:
            args, kwargs = self.make_inputs(changes)
            with hush():
                seen = self._seen[key] = run_without_values(self.model, args, kwargs)
                drop_output(seen.output)
        return self._seen[key]

    def passes(self, changes: Mapping[Place, int]) -> bool:
        """Whether the forward passes, and not only because the meta device asks for less."""
        seen = self.run(changes)
        return seen.error is None and is_honest(self.model, seen.trace)

    def _reshape(self, changes: Mapping[Place, int]) -> list[tuple[int, ...]]:
        return [
            tuple(changes.get((number, dim), size) for dim, size in enumerate(shape))
            for number, shape in enumerate(self.shapes)
        ]


def place_sizes(axes: Sequence[SizeAxis], sizes: Sequence[int]) -> dict[Place, int]:
    """What `Runs.run` wants, for a size of each axis."""
    return {place: size for axis, size in zip(axes, sizes, strict=True) for place in axis.places}
