"""How far two tensors are apart, and how far they may be: torch.testing's tolerances, or the
rounding that different kernels and dtypes make.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnprobe.records.differences import Discrepancy
from cnnprobe.stats import native

_ROUNDING = 4.0
"""Roundings of a random walk that are allowed for. After L operations the relative error is
about eps * sqrt(L) (Higham and Mary 2019, "A New Approach to Probabilistic Rounding Error
Analysis", SIAM J. Sci. Comput. 41, theorem 2.4: with high probability a small multiple of it);
the greatest of 10**6 normally distributed errors is 5 standard deviations, each rounding has one
of eps / sqrt(12) * 2, which gives about 3.
"""


# elements; three float32 buffers and both pieces of this size stay in a cache of 1 MiB
_PIECE = 32_768
_NOT_FINITE = Discrepancy(
    mismatched=0,
    elements=0,
    greatest_absolute=0.0,
    index=(),
    greatest_relative=0.0,
    allowed_absolute=0.0,
    allowed_relative=0.0,
)  # stands for "there are NaN or Inf here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The user's own rtol and atol, or None; `rounding` where both sides do not round alike: other
    dtypes, devices, compiled code.
    """

    rtol: float | None = None
    atol: float | None = None
    rounding: bool = False
    equal_nan: bool = True  # a NaN in the same place is the same result

    def bounds(self, actual: Tensor, expected: Tensor, depth: int) -> tuple[float, float]:
        """Rtol and atol for two tensors that `depth` operations have made."""
        rtol, atol = _read_defaults(actual.dtype, expected.dtype)
        if self.rounding:
            unit = max(
                (torch.finfo(t.dtype).eps for t in (actual, expected) if t.is_floating_point()),
                default=0.0,
            )
            grown = _ROUNDING * unit * math.sqrt(max(depth, 1))
            rtol, atol = max(rtol, grown), max(atol, grown * _compute_root_mean_square(expected))
        return (rtol if self.rtol is None else self.rtol), (
            atol if self.atol is None else self.atol
        )


def _read_defaults(*dtypes: torch.dtype) -> tuple[float, float]:
    """Those of torch.testing.assert_close: of two dtypes the looser ones."""
    from torch.testing._comparison import default_tolerances

    rtol, atol = default_tolerances(*dtypes)
    return float(rtol), float(atol)


def _compute_root_mean_square(tensor: Tensor) -> float:
    values = tensor.detach().double() if tensor.numel() < 1_000 else tensor.detach().float()
    values = values[values.isfinite()] if not bool(values.isfinite().all()) else values
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def measure(
    actual: Tensor, expected: Tensor, tolerance: Tolerance, depth: int
) -> Discrepancy | None:
    """The discrepancy of two tensors of one shape; None where they agree."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        actual, expected = _make_comparable(actual), _make_comparable(expected)
        alike = actual.dtype == expected.dtype and actual.device == expected.device
        if (
            alike
            and not tolerance.rounding
            and (read := _read_once(actual, expected, tolerance, depth)) is not None
        ):
            return read[0]
        if alike and torch.equal(actual, expected):
            return None
        bounds = tolerance.bounds(actual, expected, depth)
        common = torch.promote_types(actual.dtype, expected.dtype)
        if common in (torch.float16, torch.bfloat16):
            common = torch.float32
        return _measure(
            actual.to(expected.device, common),
            expected.to(common),
            bounds,
            equal_nan=tolerance.equal_nan,
        )


def _read_once(
    actual: Tensor, expected: Tensor, tolerance: Tolerance, depth: int
) -> tuple[Discrepancy | None] | None:
    """What the C kernel finds in one read of both; None where there is no kernel, or none for such
    tensors.
    """
    kernel = native.load_kernel()
    if (
        kernel is None
        or actual.dtype not in native.CODES
        or not actual.is_cpu
        or type(actual) is not Tensor
        or type(expected) is not Tensor
    ):
        return None
    rtol, atol = tolerance.bounds(actual, expected, depth)
    try:
        gap = kernel.gap(
            actual.contiguous(), expected.contiguous(), (rtol, atol), equal_nan=tolerance.equal_nan
        )
    except (
        RuntimeError,
        NotImplementedError,
    ):  # inside torch.func's transforms a tensor shows no memory
        return None
    if gap is None or not gap.beyond:
        return None if gap is None else (None,)
    return (
        Discrepancy(
            mismatched=gap.beyond,
            elements=actual.numel(),
            greatest_absolute=gap.greatest,
            index=_unravel(gap.at, actual),
            greatest_relative=gap.relative,
            allowed_absolute=atol,
            allowed_relative=rtol,
        ),
    )


def _make_comparable(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_quantized:
        return tensor.dequantize()
    return (
        tensor.to_dense() if tensor.layout != torch.strided else tensor.resolve_conj().resolve_neg()
    )


def _measure(
    actual: Tensor, expected: Tensor, bounds: tuple[float, float], *, equal_nan: bool = True
) -> Discrepancy | None:
    if actual.is_floating_point() and actual.device.type == "cpu" and actual.numel() > _PIECE:
        found = _measure_in_pieces(actual, expected, bounds)
        if found is not _NOT_FINITE:
            return found
    return _measure_whole(actual, expected, bounds, equal_nan=equal_nan)


def _measure_in_pieces(
    actual: Tensor, expected: Tensor, bounds: tuple[float, float]
) -> Discrepancy | None:
    """As `_measure_whole`, in pieces that stay in the cache; `_NOT_FINITE` where a value is none of
    its formulas' business.
    """
    rtol, atol = bounds
    ours, theirs = actual.reshape(-1), expected.reshape(-1)
    apart, bound, beyond = (torch.empty(_PIECE, dtype=actual.dtype) for _ in range(3))
    mismatched, greatest, where, relative = 0, -1.0, 0, 0.0
    for start in range(0, ours.numel(), _PIECE):
        a, e = ours[start : start + _PIECE], theirs[start : start + _PIECE]
        n = a.numel()
        d, b, m = apart[:n], bound[:n], beyond[:n]
        torch.sub(a, e, out=d).abs_()
        top = d.max()
        if not bool(top.isfinite()):
            return _NOT_FINITE
        torch.abs(e, out=b)
        torch.mul(b, rtol, out=m).add_(atol)
        torch.gt(d, m, out=m)
        count = int(m.sum(dtype=torch.float64))
        if not count:
            continue
        mismatched += count
        d.mul_(m)
        value, index = d.max(0)
        if float(value) > greatest:
            greatest, where = float(value), start + int(index)
        relative = max(relative, float(d.div_(b).nan_to_num_(nan=0.0, posinf=math.inf).max()))
    if not mismatched:
        return None
    return Discrepancy(
        mismatched=mismatched,
        elements=ours.numel(),
        greatest_absolute=greatest,
        index=_unravel(where, actual),
        greatest_relative=relative,
        allowed_absolute=atol,
        allowed_relative=rtol,
    )


def _unravel(where: int, tensor: Tensor) -> tuple[int, ...]:
    index = []
    for size in reversed(tensor.shape):
        where, at = divmod(where, size)
        index.append(at)
    return tuple(reversed(index))


def _measure_whole(
    actual: Tensor, expected: Tensor, bounds: tuple[float, float], *, equal_nan: bool = True
) -> Discrepancy | None:
    rtol, atol = bounds
    if actual.dtype == torch.bool:
        actual, expected = actual.to(torch.int8), expected.to(torch.int8)
    close = torch.isclose(actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan)
    mismatched = close.numel() - int(close.sum())
    if not mismatched:
        return None
    apart = (actual - expected).abs().masked_fill_(close, 0)
    apart = torch.where(apart.isnan(), torch.inf, apart) if apart.is_floating_point() else apart
    where = int(apart.argmax())
    # floats divide in their own precision, as in assert_close
    wide = (lambda t: t) if apart.is_floating_point() else Tensor.double
    relative = torch.where(apart > 0, wide(apart) / wide(expected.abs()), 0.0)
    return Discrepancy(
        mismatched=mismatched,
        elements=close.numel(),
        greatest_absolute=float(apart.flatten()[where]) if apart.numel() else 0.0,
        index=_unravel(where, actual),
        greatest_relative=float(relative.nan_to_num(nan=math.inf, posinf=math.inf).max()),
        allowed_absolute=atol,
        allowed_relative=rtol,
    )
