"""Two tensors of one operation that do not fit each other."""

import itertools
from dataclasses import dataclass

from cnnprobe import operations
from cnnprobe.crash.crash import Crash
from cnnprobe.records.trace import ModuleCall, TensorInfo


@dataclass(frozen=True, kw_only=True)
class Operands:
    """The operands of a failing call that broadcasts."""

    call: ModuleCall
    name: str  # "add", "mul"
    a: TensorInfo
    b: TensorInfo

    @property
    def is_sum(self) -> bool:
        """Whether one is added to the other or subtracted from it."""
        return self.name in ("add", "sub", "rsub")

    @property
    def parameter(self) -> TensorInfo | None:
        """The one that is a parameter or buffer."""
        return next((t for t in (self.a, self.b) if isinstance(t.source, str)), None)

    @property
    def is_even(self) -> bool:
        """Whether both have as many dims."""
        return len(self.a.shape) == len(self.b.shape)


def find_operands(crash: Crash) -> Operands | None:
    """The operands of the failing call; None where it does not broadcast, or they fit."""
    call = crash.call
    info = operations.find(call) if call is not None and call.fqn is None else None
    if call is None or info is None or info.effect != "broadcasts":
        return None
    tensors = [t for t in call.inputs if t.shape][:2]
    if len(tensors) < 2 or can_broadcast(tensors[0].shape, tensors[1].shape):
        return None
    return Operands(call=call, name=info.name, a=tensors[0], b=tensors[1])


def can_broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes fit: from the last dim, the sizes are equal or one of them is 1."""
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))


def list_embeddings(
    small: tuple[int, ...], large: tuple[int, ...], free: int | None = None
) -> list[tuple[int, ...]]:
    """Which dims of the larger shape those of the smaller one may be, in order; the first best.

    In the dim `free` the sizes may differ.
    """
    return [
        places
        for places in itertools.combinations(range(len(large)), len(small))
        if all(n in (1, large[i]) or i == free for n, i in zip(small, places, strict=True))
    ]


def write_index(places: tuple[int, ...], rank: int, *, is_batched: bool = True) -> str:
    """The index that puts dims at these places of more dims: [:, None], [..., None, None]."""
    if places == tuple(range(len(places))) and is_batched:
        return "[" + ", ".join(["...", *["None"] * (rank - len(places))]) + "]"
    entries = [":" if i in places else "None" for i in range(0 if is_batched else places[0], rank)]
    while entries[-1] == ":" and len(entries) > 1:
        entries.pop()
    return "[" + ", ".join(entries) + "]"


def count_layers(crash: Crash, info: TensorInfo) -> tuple[int, int]:
    """How many layers with weights a tensor has passed in the module that failed, and its row.

    The shortcut of a residual block has passed fewer than the branch.
    """
    call = crash.call
    start = call.parent if call is not None and call.parent is not None else -1
    rows = [c for i, c in crash.walk_back(info) if i > start and c.fqn is not None]
    modules = [crash.modules.get(c.fqn or "") for c in rows]
    count = sum(m is not None and bool(m._parameters) for m in modules)
    return count, info.source if isinstance(info.source, int) else -1


def is_enlarged(crash: Crash, info: TensorInfo) -> bool:
    """Whether a map comes from an interpolation, whose size is free."""
    call = crash.find_producer(info)
    found = operations.find(call) if call is not None else None
    return found is not None and found.name == "interpolate"
