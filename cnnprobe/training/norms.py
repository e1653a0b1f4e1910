"""The L2 norm of a gradient or a change, of any size and dtype."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cnnprobe.diagnosis.evidence import Gradient
from cnnprobe.recorder.inventory import has_values
from cnnprobe.recorder.values import read_dense

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


def has_gradients(optimizer: Any) -> bool:
    """Whether an optimizer has a gradient to use that is not all zeros."""
    groups = getattr(optimizer, "param_groups", ())
    gradients = (p.grad for group in groups for p in group["params"])
    return any(bool((g.detach() != 0).any()) for g in gradients if g is not None)


def measure_gradients(parameters: Mapping[str, Tensor]) -> dict[str, Gradient]:
    """The gradient of every parameter that has one."""
    found = {}
    for name, parameter in parameters.items():
        grad = parameter.grad
        if grad is not None and has_values(grad):
            dense = read_dense(grad)
            norm = measure_norm(dense)  # not finite as soon as one value is not
            found[name] = Gradient(
                norm=norm,
                nonfinite=0 if math.isfinite(norm) else int((~dense.isfinite()).sum()),
            )
    return found


def measure_total(parameters: Mapping[str, Tensor]) -> float:
    """The norm of all dense gradients together, as clipping takes it."""
    return math.hypot(
        *(
            measure_norm(read_dense(p.grad))
            for p in parameters.values()
            if p.grad is not None and not p.grad.is_sparse and has_values(p.grad)
        )
    )
