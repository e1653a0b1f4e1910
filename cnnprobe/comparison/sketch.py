"""Activations held against the statistics that a saved report keeps of them, where the values
themselves are gone.
"""

import math
from collections.abc import Mapping

from cnnprobe.comparison.structure import Aligned
from cnnprobe.records.trace import TensorInfo

_ROUNDING = 4.0  # as for values, see `comparison.numbers`
_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float64": 2.0**-52}
_EPS_FLOAT32 = 2.0**-23


def compare_sketches(
    aligned: Aligned, rtol: float | None, atol: float | None
) -> dict[int, str | None] | None:
    """Positions in the pairs -> what differs in mean, std, min, max, l2 or the counts, None where
    they agree; None if nothing was recorded.
    """
    found: dict[int, str | None] = {}
    for k, a, b in aligned.both():
        ours, theirs = (
            aligned.traces[0].calls[a.call].outputs,
            aligned.traces[1].calls[b.call].outputs,
        )
        for mine, other in zip(ours, theirs, strict=False):
            if mine.stats and other.stats and mine.shape == other.shape:
                found[k] = found.get(k) or _compare(mine, other, len(found) + 1, (rtol, atol))
    return found or None


def _compare(
    mine: TensorInfo, other: TensorInfo, depth: int, given: tuple[float | None, float | None]
) -> str | None:
    a, b = mine.stats or {}, other.stats or {}
    grown = (
        _ROUNDING * max(_EPS.get(t.dtype, _EPS_FLOAT32) for t in (mine, other)) * math.sqrt(depth)
    )
    rtol = grown if given[0] is None else given[0]
    scale = _compute_scale(b)
    atol = max(grown * scale, 1e-5 if scale == 0 else 0.0) if given[1] is None else given[1]
    for name in ("nan", "inf"):
        if a.get(name, 0) != b.get(name, 0):
            return f"{a.get(name, 0)} {name} instead of {b.get(name, 0)}"
    for name in ("mean", "std", "min", "max"):
        x, y = float(a.get(name, 0.0)), float(b.get(name, 0.0))
        if not (math.isnan(x) and math.isnan(y)) and not abs(x - y) <= atol + rtol * abs(y):
            return f"{name} {x:.6g} instead of {y:.6g} (up to {atol + rtol * abs(y):.2g} allowed)"
    return None


def _compute_scale(stats: Mapping[str, float | int]) -> float:
    """The root of the mean square, which l2 and the count give."""
    count = float(stats.get("count", 0)) or 1.0
    return float(stats.get("l2", 0.0)) / math.sqrt(count)
