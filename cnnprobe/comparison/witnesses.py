"""What watches a pass to compare it: keeps activations, or holds new ones against those kept."""

from collections.abc import Mapping

from torch import Tensor

from cnnprobe.comparison.lockstep import KEPT
from cnnprobe.comparison.numbers import Tolerance, measure
from cnnprobe.recorder.inventory import has_values
from cnnprobe.recorder.preservation import (
    storage_key,
)
from cnnprobe.recorder.values import read_flat, read_shape
from cnnprobe.records.differences import Discrepancy


class Counter:
    """Numbers the tensors that it sees, and keeps none."""

    def __init__(self) -> None:
        self.count = 0

    def see(self, tensor: Tensor) -> dict[str, float | int] | None:  # noqa: ARG002 - the protocol's
        """The number of this tensor."""
        self.count += 1
        return {KEPT: self.count - 1}

    def about_to_write(self, tensor: Tensor) -> None:
        """Nothing is kept that could change."""


class Keeper(Counter):
    """Keeps every tensor as it was when it was made; copies one only when its memory is about to be
    overwritten.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor | None] = []
        self._sharing: dict[int, list[int]] = {}

    def see(self, tensor: Tensor) -> dict[str, float | int] | None:
        """Keep the tensor under its number."""
        key = storage_key(tensor)
        if key is not None:
            self._sharing.setdefault(key, []).append(len(self.tensors))
        self.tensors.append(tensor.detach())
        return super().see(tensor)

    def about_to_write(self, tensor: Tensor) -> None:
        """Copy what shares the memory of `tensor`."""
        for number in self._sharing.pop(storage_key(tensor) or 0, ()):
            kept = self.tensors[number]
            if kept is not None:
                self.tensors[number] = kept.clone()


class Streamer(Counter):
    """Compares each tensor as it is made with the one that another model's pass has kept, and lets
    that one go.
    """

    def __init__(
        self, kept: list[Tensor | None], plan: Mapping[int, tuple[int, int]], tolerance: Tolerance
    ) -> None:
        super().__init__()
        self.found: dict[int, Discrepancy | str | None] = {}
        self._kept, self._plan, self._tolerance = kept, plan, tolerance

    def see(self, tensor: Tensor) -> dict[str, float | int] | None:
        """Compare the tensor with its counterpart."""
        number, depth = self._plan.get(self.count, (-1, 0))
        other = self._kept[number] if number >= 0 else None
        if other is not None:
            self.found[self.count] = find_difference(other, tensor, self._tolerance, depth)
            self._kept[number] = None
        return super().see(tensor)


NO_VALUES = "there are no values on the meta device"


def find_difference(
    actual: Tensor, expected: Tensor, tolerance: Tolerance, depth: int
) -> Discrepancy | str | None:
    """The discrepancy of two tensors, None where they agree, or in words why their numbers cannot
    be compared.
    """
    shapes = read_shape(actual), read_shape(expected)
    if shapes[0] != shapes[1]:
        return f"shape {shapes[0]} instead of {shapes[1]}"
    if not has_values(actual) or not has_values(expected):
        return NO_VALUES
    try:
        if actual.is_nested and expected.is_nested:
            actual, expected = read_flat(actual), read_flat(expected)
        return measure(actual, expected, tolerance, depth)
    except (
        RuntimeError,
        TypeError,
        NotImplementedError,
    ) as error:  # tensors without readable values
        return f"values cannot be read: {error}"
