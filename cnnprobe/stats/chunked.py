"""Statistics on the CPU without a compiler: torch and NumPy over pieces that stay in the cache,
around a shift near the mean.
"""

import math

import numpy as np
import torch
from torch import Tensor

from cnnprobe.stats import plain
from cnnprobe.stats.moments import Sums, make_row_of_sums, merge_sums
from cnnprobe.stats.table import WRITTEN, RowTable

PIECE = 2**19  # values: 2 MB of float32 stay in a cache, and few enough calls are made
# values whose squares are summed in float32; at 2**14 the std of some tensors is off by 5e-6
ROW = 2**10
# values up to which the calls cost more than the numbers: NumPy's are the cheaper ones
SMALL = 2**14
# squared standard deviations between a piece's mean and its shift, from which digits are lost
FAR = 4.0
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def write(tensor: Tensor, table: RowTable, row: int) -> bool:
    """Measure a dense CPU tensor of one of DTYPES; False where plain torch is better: with
    histogram or channels, or few values.
    """
    if table.histograms is not None or table.channels is not None or tensor.dtype not in DTYPES:
        return False
    flat = _flatten(tensor.detach() if tensor.requires_grad else tensor)
    if flat.numel() == 0:
        return False
    total = _measure_small(flat) if flat.numel() <= SMALL else _measure_large(flat)
    table.values[row, :WRITTEN] = make_row_of_sums(total)
    table.values[row, WRITTEN] = 1.0
    return True


def _measure_small(flat: Tensor) -> Sums:
    """The same as `_measure_piece` in double precision; by `ufunc.reduce`, as the methods of arrays
    take twice as long to get going.
    """
    x = flat.double().numpy()
    n = x.size
    if not math.isfinite(x.dot(x)):  # the one way to ask that does not warn of NaN
        return _measure_carefully(flat)
    mean = np.add.reduce(x) / n
    deviations = x - mean
    m2, zeros = deviations.dot(deviations), n - int(np.count_nonzero(x))
    low, high = float(np.minimum.reduce(x)), float(np.maximum.reduce(x))
    return Sums(n, n, float(mean), float(m2), low, high, zeros, 0)


def _measure_large(flat: Tensor) -> Sums:
    total: Sums | None = None
    buffers = torch.empty(2, min(PIECE, flat.numel()))
    shift = _choose_shift(flat[:64].double())
    for start in range(0, flat.numel(), PIECE):
        piece = flat[start : start + PIECE]
        shift, part = _measure_piece(piece, buffers[:, : piece.numel()], shift)
        total = part if total is None else merge_sums(total, part)
    assert total is not None  # noqa: S101 - nothing is measured of no values
    return total


def _flatten(tensor: Tensor) -> Tensor:
    """A view of the values in the order of memory, which is no matter here."""
    return tensor.view(-1) if tensor.is_contiguous() else tensor.as_strided((tensor.numel(),), (1,))


def _choose_shift(first: Tensor) -> float:
    """What to subtract before squaring, as far as the first values tell: nothing where they lie
    around zero, which saves a pass.
    """
    mean, variance = first.mean().item(), first.var(correction=0).item()
    return mean if math.isfinite(mean) and mean**2 > FAR * variance else 0.0


def _measure_piece(piece: Tensor, buffers: Tensor, shift: float) -> tuple[float, Sums]:
    """A shift for the next piece, and the moments of this one."""
    wide = piece if piece.dtype == torch.float32 else buffers[0].copy_(piece)
    n = wide.numel()
    for _ in range(2):
        shift = float(np.float32(shift))
        deviations = torch.sub(wide, shift, out=buffers[1]) if shift else wide
        offset = deviations.sum().item() / n
        squares = _sum_squares(deviations)
        if not math.isfinite(squares) or 0 < squares < 1e-30:
            return 0.0, _measure_carefully(wide)
        if offset**2 <= FAR * (squares / n - offset**2):
            break
        shift += offset
    low, high = (bound.item() for bound in torch.aminmax(wide))
    if squares == 0 and low != high:
        return 0.0, _measure_carefully(wide)
    # torch's own count takes ten times as long
    zeros = int(np.count_nonzero(wide.numpy() == 0)) if low <= 0 <= high else 0
    m2 = max(0.0, squares - n * offset**2)
    return shift, Sums(n, n, shift + offset, m2, low, high, zeros, 0)


def _sum_squares(flat: Tensor) -> float:
    """The sum of the squares: row by row, as one sum in float32 keeps too few digits, and together
    in double precision.
    """
    whole = flat.numel() // ROW * ROW
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1).double()
    return rows.dot(rows).item() + torch.linalg.vector_norm(flat[whole:]).item() ** 2  # type: ignore[no-any-return]


def _measure_carefully(wide: Tensor) -> Sums:
    """The same in double precision, with NaN and Inf counted."""
    moments = plain.measure_moments(wide)
    names = ("count", *Sums._fields[1:])
    return Sums(*(float(getattr(moments, name)) for name in names))
