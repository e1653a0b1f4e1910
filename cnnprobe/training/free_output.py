"""The loss of a step as a function of what the model gives: a tensor that is free to be anything
stands in for the model, and the step runs as far as its first backward.
"""

import collections
import contextlib
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from cnnprobe.recorder.values import EXACT
from cnnprobe.training.events import LoopWatch
from cnnprobe.training.passes import fresh

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
STEPS = 100  # of a minimisation
Step = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a step gives the model, and what it gets."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A loss, with its gradient for each floating tensor of the output."""

    value: float
    gradients: tuple[Tensor | None, ...]
    kinds: frozenset[str]  # of the nodes of its graph: "Sort", "Mm"
    parameters: int  # of two dims and more that its graph ends at


class Reached(BaseException):
    """The first backward: no `except Exception` of the user's may take it for its own."""


def capture_call(model: nn.Module, step: Step) -> Given | None:
    """What a step gives the model in its only call, and gets; None where it calls it otherwise."""
    seen: list[Given] = []
    own, original = vars(model), model.forward
    kept = {name: own[name] for name in ("forward",) if name in own}

    def forward(*args: Any, **kwargs: Any) -> Any:
        before = (fresh(args), fresh(kwargs))
        output = original(*args, **kwargs)
        seen.append(Given(args=before[0], kwargs=before[1], output=_copy(output)))
        return output

    def keep(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if seen:  # what other hooks have made of it
            seen[-1] = replace(seen[-1], output=_copy(output))

    own["forward"] = forward  # a step may call it by itself, where no hook is called
    handle = model.register_forward_hook(keep)
    try:
        losses = _run_to_backward(step)
    finally:
        handle.remove()
        del own["forward"]
        own |= kept
    return seen[0] if len(seen) == 1 and losses else None


def list_free(output: Any) -> list[Tensor]:
    """The tensors of an output that can be set free."""
    return [t for t in _pytree.tree_leaves(output) if _is_free(t)]


def compute_loss(model: nn.Module, step: Step, output: Any) -> Loss | None:
    """The loss that a step comes to where the model gives `output`; None where it does not."""
    found = _differentiate(model, step, output)
    if found is None:
        return None
    loss, gradients = found
    kinds, parameters = _walk(loss)
    return Loss(value=float(loss.detach()), gradients=gradients, kinds=kinds, parameters=parameters)


def minimise_loss(
    model: nn.Module, step: Step, output: Any, rate: float, is_done: Callable[[Any], bool]
) -> tuple[Any, list[float]]:
    """The output that makes the loss small, by at most STEPS steps of Adam, and the losses on the
    way; `is_done` is asked every tenth step.
    """
    output = _copy(output)
    free = list_free(output)
    optimizer = torch.optim.Adam(free, lr=rate)
    losses: list[float] = []
    for i in range(STEPS):
        found = _differentiate(model, step, output)
        if found is None or not bool(found[0].isfinite()):
            break
        losses.append(float(found[0].detach()))
        for tensor, gradient in zip(free, found[1], strict=True):
            tensor.grad = None if gradient is None else gradient.nan_to_num()
        optimizer.step()
        if i % 10 == 9 and is_done(output):
            break
    return output, losses


def _differentiate(
    model: nn.Module, step: Step, output: Any
) -> tuple[Tensor, tuple[Tensor | None, ...]] | None:
    leaves = [t.detach().clone().requires_grad_() for t in list_free(output)]
    following = iter(leaves)
    # a copy of each leaf: the step may write to what the model gives
    given = _pytree.tree_map(lambda v: next(following).clone() if _is_free(v) else v, output)
    with _stood_in(model, given) as calls:
        losses = _run_to_backward(step)
    if len(calls) != 1 or not losses or not losses[0].requires_grad or not leaves:
        return None
    loss = losses[0].sum()
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return loss, gradients


def _is_free(value: Any) -> bool:
    return (
        type(value) in EXACT
        and value.is_floating_point()
        and value.layout is torch.strided
        and not value.is_nested
        and value.numel() > 0
    )


def _copy(output: Any) -> Any:
    return _pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, output)


def _run_to_backward(step: Step) -> list[Tensor]:
    """The tensors of the first backward of a step; none where it has none, or raises."""
    found: list[Tensor] = []

    def watch(kind: str, scope: Mapping[str, Any], _: types.FrameType) -> None:
        if kind == "backward":
            tensors = scope.get("tensors")
            found.extend([tensors] if isinstance(tensors, Tensor) else tensors or ())
            raise Reached

    try:
        with LoopWatch(watch):
            step()
    except Reached:
        pass
    except Exception:  # the step's own, of a model that does not give what it gave
        return []
    return found


@contextlib.contextmanager
def _stood_in(model: nn.Module, output: Any) -> Iterator[list[int]]:
    """Within, the model gives `output`, and no hook of it runs; counts its calls."""
    calls: list[int] = []
    own = vars(model)
    kept = {name: own[name] for name in (*_HOOKS, "forward") if name in own}

    def forward(*_args: Any, **_kwargs: Any) -> Any:
        calls.append(1)
        return output

    own |= {name: collections.OrderedDict() for name in _HOOKS}
    own["forward"] = forward
    try:
        yield calls
    finally:
        del own["forward"]
        own |= kept


def _walk(loss: Tensor) -> tuple[frozenset[str], int]:
    """The kinds of the nodes of a graph, and its number of parameters of two dims and more."""
    kinds, parameters = set(), 0
    stack, seen = [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is None:
            kinds.add(node.name().partition("Backward")[0])
        elif isinstance(variable, nn.Parameter) and variable.dim() > 1:
            parameters += 1
        stack.extend(following for following, _ in node.next_functions)
    return frozenset(kinds), parameters
