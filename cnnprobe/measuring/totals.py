"""The statistics of one tensor of the model, added up batch by batch."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnprobe.records.measured import BUCKETS, PERCENTS, Measured, find_percentile
from cnnprobe.records.statistics import Statistics, merge
from cnnprobe.stats import summarise

Key = tuple[str, str, int, str]  # what, fqn, call, path in the output
Totals = dict[Key, "Total"]


class Total:
    """What is known of one tensor so far: half a megabyte, however many samples there were."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.statistics: Statistics | None = None
        self.low: NDArray[np.float64] = np.zeros(0)
        self.high: NDArray[np.float64] = np.zeros(0)
        self.counts: NDArray[np.int64] = np.zeros(BUCKETS, dtype=np.int64)

    def add(self, tensor: Tensor) -> bool:
        """Take in the tensor of one batch; whether it could be read."""
        found = summarise(tensor, histogram=True, channels=tensor.dim() > 1)
        if found is None or not tensor.is_floating_point():
            return False
        with torch.no_grad():
            values = tensor.detach().float()
            low, high = _find_ranges(
                tensor.detach() if tensor.dtype is torch.float64 else values,
                odd=found.nan + found.inf > 0,
            )
            bits = values.contiguous().reshape(-1).view(torch.int32)
            if found.nan + found.inf:
                bits = bits[values.reshape(-1).isfinite()]
            counts = torch.bincount((bits >> 16) & 0xFFFF, minlength=BUCKETS).cpu().numpy()
        self._join(found, low, high, counts)
        return True

    def merge(self, other: "Total") -> None:
        """Take in what another process has added up."""
        if other.statistics is not None:
            self._join(other.statistics, other.low, other.high, other.counts)

    def _join(
        self,
        statistics: Statistics,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        counts: NDArray[np.int64],
    ) -> None:
        if self.statistics is None:
            self.statistics, self.low, self.high = statistics, low, high
        else:
            self.statistics = merge(self.statistics, statistics)
            same = len(self.low) == len(low)  # of another number of channels none is told
            self.low = np.fmin(self.low, low) if same else np.zeros(0)
            self.high = np.fmax(self.high, high) if same else np.zeros(0)
        self.counts = self.counts + counts


def _find_ranges(values: Tensor, *, odd: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the greatest finite value of each channel, NaN where there is none."""
    if values.dim() < 2 or not values.numel():
        return np.zeros(0), np.zeros(0)
    rows = values.transpose(0, 1).reshape(values.shape[1], -1)
    if not odd:
        low, high = torch.aminmax(rows, dim=1)
        return low.double().cpu().numpy(), high.double().cpu().numpy()
    finite = rows.isfinite()
    least = torch.where(finite, rows, torch.inf).amin(1).double().cpu().numpy()
    greatest = torch.where(finite, rows, -torch.inf).amax(1).double().cpu().numpy()
    return tuple(np.where(np.isinf(ends), np.nan, ends) for ends in (least, greatest))  # type: ignore[return-value]


def find_percentiles(measured: Measured) -> Measured:
    """The same with its percentiles."""
    found = {f"{percent:g}": find_percentile(measured, percent) for percent in PERCENTS}
    return replace(measured, percentiles=found)


def to_measured(key: Key, total: Total) -> Measured | None:
    """What was added up, as plain data without percentiles; None where nothing was."""
    if total.statistics is None:
        return None
    what, fqn, call, path = key
    buckets = np.flatnonzero(total.counts)
    fields: dict[str, Any] = {
        "fqn": fqn, "what": what, "call": call, "output": path, "kind": total.kind,
        "statistics": total.statistics,
        "low": tuple(total.low.tolist()), "high": tuple(total.high.tolist()),
        "buckets": tuple(buckets.tolist()), "counts": tuple(total.counts[buckets].tolist()),
    }  # fmt: skip
    return Measured(**fields)


def to_total(measured: Measured) -> tuple[Key, Total]:
    """What was written down, to be gone on with."""
    total = Total(measured.kind)
    total.statistics = measured.statistics
    total.low, total.high = np.array(measured.low), np.array(measured.high)
    total.counts[list(measured.buckets)] = measured.counts
    return (measured.what, measured.fqn, measured.call, measured.output), total
