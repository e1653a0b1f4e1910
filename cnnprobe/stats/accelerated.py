"""The statistics of a CUDA tensor in one read by a Triton kernel: nothing waits, and the results
stay on the device until they are fetched.

Each program sums its share of the tensor and leaves its moments in the table's own memory on the
device; they are merged when the table is fetched. So a tensor takes one launch, no atomic counter
and no second kernel.
"""

import functools
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnnprobe.stats.moments import PARTS
from cnnprobe.stats.table import SIGNED, MeasuredRows, RowTable, find_stream

BLOCK = 1024  # elements at a time: eight a thread
WARPS = 4
WAVES = 4  # programs for each multiprocessor
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit  # type: ignore[untyped-decorator]
def _measure(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0917
    x, parts, histogram, count, share,  # noqa: ANN001
    BLOCK: tl.constexpr, HISTOGRAM: tl.constexpr, SLOTS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    program = tl.program_id(0)
    start = program.to(tl.int64) * share
    stop = tl.minimum(start + share, count)
    lanes = tl.arange(0, BLOCK)
    # Around the first value of the share: a large mean would swallow the deviations. In double
    # precision: squares of 1e19 overflow a float32.
    first = tl.load(x + start, mask=start < stop, other=0.0).to(tl.float64)
    shift = tl.where(tl.abs(first) < float("inf"), first, 0.0)
    s1 = tl.zeros((BLOCK,), dtype=tl.float64)
    s2 = tl.zeros((BLOCK,), dtype=tl.float64)
    low = tl.full((BLOCK,), float("inf"), dtype=tl.float32)
    high = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    finites = tl.zeros((BLOCK,), dtype=tl.int32)
    zeros = tl.zeros((BLOCK,), dtype=tl.int32)
    nans = tl.zeros((BLOCK,), dtype=tl.int32)
    counts = tl.zeros((SLOTS,), dtype=tl.int32)
    for offset in range(start, stop, BLOCK):
        at = offset + lanes
        inside = at < stop
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        finite = inside & (tl.abs(v) < float("inf"))  # no NaN is smaller
        d = tl.where(finite, v.to(tl.float64) - shift, 0.0)
        s1 += d
        s2 += d * d
        low = tl.minimum(low, tl.where(finite, v, float("inf")))
        high = tl.maximum(high, tl.where(finite, v, float("-inf")))
        finites += finite.to(tl.int32)
        zeros += (inside & (v == 0.0)).to(tl.int32)
        nans += (inside & (v != v)).to(tl.int32)  # noqa: PLR0124
        if HISTOGRAM:
            slot = (v.to(tl.int32, bitcast=True) >> 23) & 511
            counts += tl.histogram(tl.where(finite & (v != 0.0), slot, 255), SLOTS)
    n = tl.sum(finites, axis=0).to(tl.float64)
    least_one = tl.maximum(n, 1.0)
    offset_of_mean = tl.sum(s1, axis=0) / least_one
    mean = tl.where(n > 0, shift + offset_of_mean, 0.0)
    m2 = tl.maximum(tl.sum(s2, axis=0) - n * offset_of_mean * offset_of_mean, 0.0)
    out = parts + program * 9
    tl.store(out, tl.maximum(stop - start, 0).to(tl.float64))
    tl.store(out + 1, n)
    tl.store(out + 2, mean)
    tl.store(out + 3, m2)
    tl.store(out + 4, m2 + n * mean * mean)
    tl.store(out + 5, tl.min(low, axis=0).to(tl.float64))
    tl.store(out + 6, tl.max(high, axis=0).to(tl.float64))
    tl.store(out + 7, tl.sum(zeros, axis=0).to(tl.float64))
    tl.store(out + 8, tl.sum(nans, axis=0).to(tl.float64))
    if HISTOGRAM:
        slots = tl.arange(0, SLOTS)
        tl.atomic_add(histogram + slots, counts.to(tl.int64), mask=(slots != 255) & (counts > 0))


def write(tensor: Tensor, table: RowTable, row: int) -> bool:
    """Measure a dense CUDA tensor of one of DTYPES without waiting for it; False where plain torch
    must: doubles, channels.
    """
    count = tensor.numel()
    if tensor.dtype not in DTYPES or count == 0 or table.channels is not None:
        return False
    device = tensor.device
    programs = _count_programs(device)
    parts = table.parts(device, programs)[row]
    share = -(-count // (programs * BLOCK)) * BLOCK
    histogram = None if table.histograms is None else table.counts(device, row)
    away = tensor.is_cuda and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if away else nullcontext():
        _measure[(programs,)](
            tensor,
            parts,
            parts if histogram is None else histogram,
            count,
            share,
            BLOCK=BLOCK,
            HISTOGRAM=histogram is not None,
            SLOTS=SIGNED,
            num_warps=WARPS,
        )
    stream = (device.index, find_stream(device.index)) if tensor.is_cuda else None
    table.hold_parts(row, MeasuredRows(parts, histogram), stream)
    return True


@functools.cache
def _count_programs(device: torch.device) -> int:
    if device.type != "cuda":  # Triton's interpreter
        return 4
    return WAVES * int(torch.cuda.get_device_properties(device).multi_processor_count)


assert len(PARTS) == 9  # noqa: S101 - the kernel stores by position
