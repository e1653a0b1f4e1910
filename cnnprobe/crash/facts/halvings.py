"""Where a map is made smaller, and by which number its height and width have to divide."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.joins import list_ancestors
from cnnprobe.crash.facts.windows import get_call_window
from cnnprobe.records.trace import ModuleCall, TensorInfo


@dataclass(frozen=True, kw_only=True)
class Halving:
    """A pooling or convolution that makes a map smaller by its stride."""

    call: ModuleCall
    before: tuple[int, ...]
    after: tuple[int, ...]
    stride: int

    @property
    def is_rounded(self) -> bool:
        """Whether the sizes do not divide by the stride, so that they are rounded."""
        return any(n % self.stride for n in self.before)


def list_halvings(crash: Crash, *tensors: TensorInfo) -> list[Halving]:
    """Everything that made a map smaller on the ways to some tensors, in the order of the calls."""
    found: list[Halving] = []
    for index in sorted(list_ancestors(crash, *tensors)):
        call = crash.trace.calls[index]
        window = get_call_window(crash, call)
        if window is None or window.transposed or window.adaptive or not call.outputs:
            continue
        n = len(window.kernel)
        before, after = call.inputs[0].shape[-n:], call.outputs[0].shape[-n:]
        if max(window.stride) > 1:
            found.append(Halving(call=call, before=before, after=after, stride=max(window.stride)))
    return found


def find_rounded(crash: Crash, parts: Sequence[TensorInfo]) -> Halving | None:
    """The first that rounds on the way to some of the parts but not to all."""
    ways = [list_ancestors(crash, part) for part in parts]
    common = [crash.trace.calls[i] for i in set.intersection(*ways)]
    halvings = list_halvings(crash, *parts)
    return next((h for h in halvings if h.is_rounded and h.call not in common), None)


def count_divisor(halvings: list[Halving]) -> int:
    """The number by which the height and width of the input have to divide.

    Halvings from one size to another are parallel branches, which count once.
    """
    return math.prod({(h.before, h.after): h.stride for h in halvings}.values())
