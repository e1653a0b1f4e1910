"""Measured ranges in the form that quantization takes."""

from typing import Any

import torch

from cnnprobe.errors import UsageError
from cnnprobe.records.measured import Measured, find_percentile


def make_observer(
    measured: Measured,
    *,
    per_channel: bool = False,
    percentile: float | None = None,
    **options: Any,
) -> Any:
    """An observer of `torch.ao.quantization` that has seen the tensor over the whole data set:
    `observer.calculate_qparams()` gives scale and zero point.

    Args:
        measured: the tensor.
        per_channel: a PerChannelMinMaxObserver of dimension 1 instead of a MinMaxObserver.
        percentile: cut the range off: 99.9 takes it from the 0.1th to the 99.9th percentile.
        options: go to the observer: `dtype`, `qscheme`, `reduce_range`, ...

    Raises:
        UsageError: the tensor has no channels, or a percentile is asked for of each of them.
    """
    from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver

    where = f"make_observer of {measured.fqn or 'the input'!r}"
    if per_channel and (percentile is not None or not measured.low):
        raise UsageError(
            "percentiles are known of the whole tensor alone"
            if percentile is not None
            else "its channels are not known: it has no dimension 1, or one of changing size",
            where=where,
            fix="leave per_channel out",
        )
    if per_channel:
        observer: Any = PerChannelMinMaxObserver(ch_axis=1, **options)
        low, high = torch.tensor(measured.low), torch.tensor(measured.high)
    else:
        observer = MinMaxObserver(**options)
        ends = (measured.statistics.min, measured.statistics.max)
        if percentile is not None:
            ends = tuple(find_percentile(measured, p) for p in (100 - percentile, percentile))  # type: ignore[assignment]
        low, high = map(torch.tensor, ends)
    observer.min_val.resize_(low.shape).copy_(low)
    observer.max_val.resize_(high.shape).copy_(high)
    return observer
