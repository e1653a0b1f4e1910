"""What correct gates and recurrent cells have in common: bounds, however large their input is."""

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.recorder.values import leaves
from cnnprobe.training.formula_calls import Call, first_tensor

LARGE = 100.0  # of the input: a sigmoid stays at most 1, a ReLU does not
MOST = 2.0  # of a gate of 2 * sigmoid, or of x + x * gate
SLACK = 1e-3
_INPUT = re.compile(r"^(x|inp|input|frame|embed|token)", re.IGNORECASE)
Found = tuple[str, str] | None


def check_gate(call: Call) -> Found:
    """A gate multiplies by 0 to 1, or with the input added by 1 to 2; never by less or more."""
    name = _name_map(call)
    if name is None:
        return None
    x = LARGE * torch.randn(call.arguments[name].shape)
    made = first_tensor(_call_aside(call, {name: x}))
    weights = None if made is None else _find_weights(x, made)
    if weights is None:
        return None
    low, high = float(weights.min()), float(weights.max())
    if low >= -SLACK and high <= MOST + SLACK:
        return None
    return "weights between 0 and 1", f"{low:.3g} to {high:.3g} for a large input"


def _name_map(call: Call) -> str | None:
    """The only argument that is a map (N, C, ...)."""
    tensors = call.tensors()
    maps = [k for k, v in tensors.items() if v.dim() >= 3 and v.is_floating_point()]
    return maps[0] if len(maps) == 1 and len(tensors) == 1 else None


def _call_aside(call: Call, given: dict[str, Any]) -> Any:
    """The call with a copy of its module, in eval mode: running statistics stay as they are."""
    owner = {k: copy.deepcopy(v) for k, v in call.owner.items()}
    for each in owner.values():
        if isinstance(each, nn.Module):
            each.eval()
    return call.function(**owner, **{**call.arguments, **given})


def _find_weights(x: Tensor, made: Tensor) -> Tensor | None:
    """What the input was multiplied by, where it is the same for all positions or all channels; the
    result itself where it has size 1 along these.
    """
    if made.shape == x.shape:
        weights = (made / x).where(x.abs() > 1.0, torch.nan).flatten(2)
        across = [_spread(weights, dim) for dim in (1, 2)]
        return weights[~weights.isnan()] if min(across) < SLACK else None
    is_gate = made.dim() == x.dim() and all(
        a in (1, b) for a, b in zip(made.shape, x.shape, strict=True)
    )
    return made if is_gate and made.shape[:1] == x.shape[:1] else None


def _spread(weights: Tensor, dim: int) -> float:
    """The greatest difference along a dim, over the size."""
    middle = weights.nanmean(dim, keepdim=True)
    size = float(weights.nan_to_num().abs().max()) or 1.0
    return float((weights - middle).nan_to_num().abs().max()) / size


def check_lstm(call: Call) -> Found:
    """The hidden state is o * tanh(c): at most 1, and of both signs."""
    states = _step(call, 1.0)
    if states is None or len(states) < 2:
        return None
    least = min(float(state.abs().max()) for state in states)
    if least > 1 + SLACK:
        return "a hidden state of at most 1", f"up to {least:.3g}"
    first = _step(call, 0.0) or []
    low = min((float(state.min()) for state in first), default=-1.0)
    if low >= 0:
        return "states of both signs from a state of 0", f"none is below {low:.3g}"
    return None


def check_gru(call: Call) -> Found:
    """The new state lies between the old one and what a tanh gives."""
    states = _step(call, 1.0)
    if states is None or len({s.shape for s in states}) != 1:
        return None
    high = float(states[0].abs().max())
    return None if high <= 1 + SLACK else ("a state of at most 1", f"up to {high:.3g}")


def _step(call: Call, scale: float) -> list[Tensor] | None:
    """The states that a cell makes of a large input and of states in [-scale, scale]."""
    given = dict(call.arguments)
    tensors = [v for _, v in leaves(given) if isinstance(v, Tensor)]
    first = next(iter(call.tensors()), "")
    if len(tensors) < 2 or not _INPUT.search(first) or tensors[0] is not given[first]:
        return None
    if not all(v.is_floating_point() and v.dim() >= 2 for v in tensors):
        return None

    def draw(value: Any) -> Any:
        return scale * (torch.rand(value.shape) * 2 - 1) if isinstance(value, Tensor) else value

    drawn = {k: torch.utils._pytree.tree_map(draw, v) for k, v in given.items()}
    drawn[first] = LARGE * torch.randn(tensors[0].shape)
    shapes = {v.shape for v in tensors[1:]}
    made = [v for _, v in leaves(_call_aside(call, drawn)) if isinstance(v, Tensor)]
    return [v for v in made if v.shape in shapes] or None
