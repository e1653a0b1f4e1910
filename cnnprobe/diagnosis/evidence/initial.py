"""Whether weights are still what torch has drawn for them."""

import math
from collections.abc import Sequence

from cnnprobe.diagnosis.evidence.evidence import Evidence


def is_fresh(evidence: Evidence, module: str) -> bool:
    """Whether the weight looks as torch initialises it: uniform within 1 / sqrt(fan_in)."""
    weight = evidence.values.get(f"{module}.weight")
    if weight is None:
        return False
    return is_drawn(weight.shape, weight.low, weight.high, weight.std)


def is_drawn(shape: Sequence[int], low: float, high: float, std: float) -> bool:
    """Whether a weight of this shape and these statistics is uniform within 1 / sqrt(fan_in).

    >>> is_drawn((8, 4), -0.49, 0.5, 0.29), is_drawn((8, 4), -0.7, 0.5, 0.29)
    (True, False)
    """
    if len(shape) < 2 or math.prod(shape) < 16:
        return False
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return (
        0.8 * bound < max(-low, high) <= 1.0001 * bound
        and abs(std - bound / math.sqrt(3)) < 0.15 * bound
    )
