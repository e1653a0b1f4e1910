"""Compares the log-determinant that a flow gives with that of its Jacobian by autograd, and asks
whether the loss falls as it grows.
"""

import re
import types
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import BrokenProperty
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.recorder.values import leaves
from cnnprobe.training.free_output import Given, Step, capture_call, compute_loss, list_free

NAMED = re.compile(r"log_?(abs_?)?det|ldj|log_?jac", re.IGNORECASE)
LARGEST = 32  # features of a sample; each takes a backward pass
LEAST = 1e-3  # of a log-determinant: below it the map is still the identity
EQUAL = 0.02  # relative


def find_wrong_volume(model: nn.Module, step: Step) -> BrokenProperty | None:
    """A flow whose loss falls as the log-determinant of its Jacobian does."""
    code = _find_code(model)
    given = capture_call(model, step) if code is not None else None
    if code is None or given is None or _has_batch_norm(model):
        return None
    found = _find_outputs(given)
    loss = compute_loss(model, step, given.output) if found is not None else None
    if found is None or loss is None:
        return None
    place, determinant = found
    gradient = loss.gradients[determinant]
    true = _compute_determinants(model, given, place)
    said = list_free(given.output)[determinant].flatten()
    if gradient is None or true is None or float(true.abs().max()) < LEAST:
        return None
    slope, sign = float(gradient.sum()), _compare(said, true)
    if slope * sign <= 0:
        return None
    return BrokenProperty(
        name=type(model).__name__,
        formula="likelihood by a change of variables",
        expected=(
            "a loss that falls as the log-determinant grows, which is "
            f"{float(true[0]):.3g} by autograd for the first sample"
        ),
        found=(
            f"{float(said[0]):.3g}, and a loss that "
            f"{'rises' if slope > 0 else 'falls'} as this grows"
        ),
        fix="log p(x) = log p(z) + log|det dz/dx|: add the log-determinant of each layer",
        source=f"{code.co_filename}:{code.co_firstlineno}",
        reference="Dinh et al. 2017, arXiv:1605.08803, equation 2",
    )


def _find_code(model: nn.Module) -> types.CodeType | None:
    """The first function of the model's classes that speaks of a log-determinant."""
    for kind in {type(module): None for _, module, _ in named_modules(model)}:
        if kind.__module__.startswith("torch."):
            continue
        for function in vars(kind).values():
            code = function.__code__ if isinstance(function, types.FunctionType) else None
            if code is not None and any(map(NAMED.search, (*code.co_varnames, *code.co_names))):
                return code
    return None


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def _find_outputs(given: Given) -> tuple[int, int] | None:
    """Which floating tensors of the output are the mapped input, and one number for each sample."""
    inputs = [t for _, t in leaves((given.args, given.kwargs)) if isinstance(t, Tensor)]
    x = next((t for t in inputs if t.is_floating_point() and t.dim() > 1), None)
    outputs = list_free(given.output)
    if x is None or len(outputs) != 2 or x[0].numel() > LARGEST:
        return None
    for place, other in ((0, 1), (1, 0)):
        if outputs[place].shape == x.shape and outputs[other].numel() == len(x) != x.numel():
            return place, other
    return None


def _compute_determinants(model: nn.Module, given: Given, place: int) -> Tensor | None:
    """The log-determinant of each sample's Jacobian."""
    args, kwargs = given.args, dict(given.kwargs)
    x = next(t for _, t in leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim() > 1)
    free = x.detach().clone().requires_grad_()
    swap: Any = lambda v: free if v is x else v  # noqa: E731
    args, kwargs = torch.utils._pytree.tree_map(swap, (args, kwargs))
    with torch.enable_grad():
        made = list_free(model.forward(*args, **kwargs))[place].reshape(len(x), -1)
        rows = [
            torch.autograd.grad(made[:, k].sum(), free, retain_graph=True)[0].reshape(len(x), -1)
            for k in range(made.shape[1])
        ]
    found = torch.linalg.slogdet(torch.stack(rows, 1).double())[1]
    return found if bool(found.isfinite().all()) else None


def _compare(said: Tensor, true: Tensor) -> int:
    """1 where two tensors are the same, -1 where one is minus the other, 0 otherwise."""
    scale = float(true.abs().max())
    for sign in (1, -1):
        if float((said.double() - sign * true).abs().max()) < EQUAL * scale:
            return sign
    return 0
