"""Whether weights are still what torch has drawn for them."""

import math

from cnnprobe.diagnosis.evidence.evidence import Evidence


def is_fresh(evidence: Evidence, module: str) -> bool:
    """Whether the weight looks as torch initialises it: uniform within 1 / sqrt(fan_in)."""
    weight = evidence.values.get(f"{module}.weight")
    if weight is None or len(weight.shape) < 2 or math.prod(weight.shape) < 16:
        return False
    bound = 1 / math.sqrt(math.prod(weight.shape[1:]))
    highest = max(-weight.low, weight.high)
    return (
        0.8 * bound < highest <= 1.0001 * bound
        and abs(weight.std - bound / math.sqrt(3)) < 0.15 * bound
    )
