"""The L2 norm of a gradient or a change, of any size and dtype."""

import torch
from torch import Tensor

# Between these the squares of a float32 norm neither overflow nor vanish.
_SAFE_NORM = (1e-15, 1e18)


def measure_norm(tensor: Tensor) -> float:
    """The norm, without overflow of its squares."""
    if not tensor.numel():
        return 0.0
    if tensor.is_complex():
        return float(torch.linalg.vector_norm(tensor, dtype=torch.complex128).real)
    # In float64 torch takes 25 times as long, so only where float32 cannot tell.
    norm = float(torch.linalg.vector_norm(tensor.float()))
    if _SAFE_NORM[0] < norm < _SAFE_NORM[1] or (norm == 0 and not tensor.any()):
        return norm
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
