"""What a model's tensors held over a whole data set, as plain data: no torch."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cnnprobe.errors import UsageError
from cnnprobe.records.statistics import Statistics

PERCENTS = (0.01, 0.1, 1.0, 50.0, 99.0, 99.9, 99.99)
BUCKETS = 2**16  # one for each value of the upper half of a float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One tensor of the model over all samples.

    Channels are dimension 1. `low` and `high` have the least and the greatest finite value of each,
    and are empty where a tensor has no such dimension. `buckets` and `counts` say how many finite
    values there were by the upper 16 bits of their float32: by the sign, the exponent and the first
    7 bits behind it.
    """

    fqn: str  # of the module; "" for what went into the model
    what: Literal["activation", "input"] = "activation"
    call: int = 0  # k-th call of the module in a pass
    output: str = ""  # path in a nested output
    kind: str = ""  # class name of the module
    statistics: Statistics
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()  # one for each of `buckets`
    percentiles: Mapping[str, float] = field(default_factory=dict)  # by PERCENTS


def find_percentile(measured: Measured, percent: float) -> float:
    """The value below which so many percent of the finite values lie; NaN where there is none.

    It lies in the bucket of that value, which is at most 1/128 of its magnitude wide, and between
    the least and the greatest value.

    Raises:
        UsageError: `percent` is not between 0 and 100.
    """
    if not 0 <= percent <= 100:
        raise UsageError(
            f"there is no percentile {percent!r}",
            where="find_percentile",
            fix="give a number from 0 to 100: 99.9",
        )
    counts = sorted(zip(measured.buckets, measured.counts, strict=True), key=_rank_bucket)
    at = percent / 100 * (sum(measured.counts) - 1)
    passed = 0
    for bucket, count in counts:
        if at <= passed + count - 1 or bucket == counts[-1][0]:
            lower, upper = _find_edges(bucket)
            share = min(1.0, max(0.0, at - passed) / max(count - 1, 1))
            found = lower + (upper - lower) * share
            return min(max(found, measured.statistics.min), measured.statistics.max)
        passed += count
    return float("nan")


def _rank_bucket(entry: tuple[int, int]) -> int:
    """The place of a bucket in the order of its values: of negative ones the largest comes
    first.
    """
    bucket = entry[0]
    return bucket if bucket < BUCKETS // 2 else BUCKETS // 2 - 1 - bucket


def _find_edges(bucket: int) -> tuple[float, float]:
    """The values between which a bucket's lie.

    >>> _find_edges(0x3F80), _find_edges(0xBF80)
    ((1.0, 1.0078125), (-1.0078125, -1.0))
    """
    magnitude = bucket & 0x7FFF
    if not magnitude:  # zeros, and what is so near that float32 has no full precision there
        return 0.0, 0.0
    near, far = (
        struct.unpack("<f", struct.pack("<I", bits << 16))[0] for bits in (magnitude, magnitude + 1)
    )
    far = min(far, 3.4028234663852886e38)  # the greatest float32: the next bits say infinity
    return (near, far) if bucket < BUCKETS // 2 else (-far, -near)
