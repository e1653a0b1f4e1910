"""Between which numbers the values of a row must lie, by the operations that make it."""

import math
from collections.abc import Mapping, Sequence

from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import argument, operation
from cnnprobe.records.trace import ModuleCall

Bounds = tuple[float, float]
ANY: Bounds = (-math.inf, math.inf)
_DEPTH = 24  # rows; an argument is written out in fewer
_RANGES: dict[str, Bounds] = {
    **dict.fromkeys(
        ("square", "abs", "cdist", "norm", "vector_norm", "linalg_vector_norm", "exp", "relu",
         "softplus", "sqrt", "var", "std", "dist", "pairwise_distance", "mse_loss", "l1_loss"),
        (0.0, math.inf),
    ),
    **dict.fromkeys(("sigmoid", "softmax", "rand", "rand_like", "hardsigmoid"), (0.0, 1.0)),
    **dict.fromkeys(("tanh", "cos", "sin", "cosine_similarity", "normalize", "erf", "sign"),
                    (-1.0, 1.0)),
    **dict.fromkeys(("log_softmax", "logsigmoid"), (-math.inf, 0.0)),
}  # fmt: skip
_KEEPING = frozenset(
    {"mean", "sum", "amax", "amin", "view", "reshape", "flatten", "squeeze", "unsqueeze", "getitem",
     "expand", "transpose", "permute", "detach", "contiguous", "max", "min", "t"}
)  # fmt: skip


NONE: Mapping[str, Bounds] = {}


def find_bounds(
    flow: Flow, index: int | None, depth: int = _DEPTH, known: Mapping[str, Bounds] = NONE
) -> Bounds:
    """The least and the greatest value that a row can have; infinite where nothing bounds it.

    Args:
        flow: of the trace.
        index: the row.
        depth: how many rows back it looks.
        known: the least and the greatest value of tensors by their fqn, as of buffers.
    """
    if index is None or depth == 0:
        return ANY
    call = flow.calls[index]
    kind = operation(call)
    if kind in _RANGES:
        return _RANGES[kind]
    sources = [flow.producer(info) for info in call.inputs]
    is_even = kind == "pow" and (
        "square" in call.kind or argument(call, "exponent", None) in (2, 4)
    )
    is_own = kind == "mul" and len(sources) == 2 and sources[0] == sources[1] is not None
    if is_even or is_own:
        return 0.0, math.inf
    given = [
        known[info.source]
        if isinstance(info.source, str) and info.source in known
        else find_bounds(flow, source, depth - 1, known)
        for info, source in zip(call.inputs, sources, strict=True)
    ]
    if not given:
        return ANY
    if kind in _KEEPING:
        low, high = given[0]
        # a sum of many may be as far from 0 as it likes, on the side where its parts are
        is_sum = kind == "sum"
        return (-math.inf if is_sum and low < 0 else low, math.inf if is_sum and high > 0 else high)
    if kind in ("clamp", "clip", "clamp_min", "clamp_max"):
        return _clamp(call, given[0])
    return _combine(kind, call, given)


def _clamp(call: ModuleCall, given: Bounds) -> Bounds:
    low, high = argument(call, "min", None), argument(call, "max", None)
    return (
        max(given[0], low) if isinstance(low, int | float) else given[0],
        min(given[1], high) if isinstance(high, int | float) else given[1],
    )


def _combine(kind: str, call: ModuleCall, given: Sequence[Bounds]) -> Bounds:
    """The bounds of a sum or a product."""
    if kind == "neg":
        return -given[0][1], -given[0][0]
    number = argument(call, "other", argument(call, "input"))
    parts = list(given)
    if len(parts) == 1 and isinstance(number, int | float):
        parts.append((float(number), float(number)))
    if len(parts) != 2 or argument(call, "alpha", 1) != 1:
        return ANY
    (low, high), (other_low, other_high) = parts
    if kind == "add":
        return low + other_low, high + other_high
    if kind == "sub":
        return low - other_high, high - other_low
    if kind == "rsub":
        return other_low - high, other_high - low
    if kind == "div":  # of a divisor only the sign is used
        other_low, other_high = (
            (0.0 if other_low >= 0 else -math.inf),
            (0.0 if other_high <= 0 else math.inf),
        )
    if kind in ("mul", "div"):
        ends = [_multiply(a, b) for a in (low, high) for b in (other_low, other_high)]
        return min(ends), max(ends)
    return ANY


def _multiply(one: float, other: float) -> float:
    return 0.0 if one == 0 or other == 0 else one * other
