"""Asks of a model that predicts the next step of a sequence whether it sees that step: other values
from one step on may change nothing before it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnprobe.diagnosis.evidence import Flow, Foresight
from cnnprobe.recorder.values import EXACT
from cnnprobe.training.passes import forward, fresh, list_tensors, tensors_of
from cnnprobe.training.request import Request

SHORTEST = 4  # steps
SHIFTED = 0.9  # of the targets are the inputs one step later; the others may be padding
CHANCE = 0.5  # of them may be the inputs of the same step
SMALLEST = 1e-4  # of the output's size; rounding hardly differs
_IGNORED = -100  # of torch's losses by default


def find_foresight(
    model: nn.Module, inputs: Any, shifted: tuple[Tensor, Tensor]
) -> Foresight | None:
    """What outputs see of later steps of `shifted`, an input and which of its steps count; None
    where nothing can be said.
    """
    sequence, counted = shifted
    steps = sequence.shape[1]
    cut = steps // 2
    base = forward(model, inputs, training=False, summarise=_before(cut, sequence.shape[:2]))
    other = forward(
        model,
        _replace(inputs, sequence, slice(cut, None)),
        training=False,
        summarise=_before(cut, sequence.shape[:2]),
    )
    past = forward(model, _replace(inputs, sequence, slice(0, cut)), training=False)
    seen = _differ(base.output, other.output, (counted, slice(0, cut)))
    if any(made.error is not None for made in (base, other, past)) or seen is None:
        return None
    remembered = _differ(base.output, past.output, (counted, slice(cut, None)))
    row = _find_first(base.trace, other.trace) if seen > SMALLEST else None
    flow = Flow(base.trace)
    return Foresight(
        future=seen,
        past=remembered or 0.0,
        step=cut,
        steps=steps,
        module=None if row is None else flow.owner(row),
        source="" if row is None else flow.line(row),
    )


def observe_foresight(
    request: Request, run: Callable[[], Any], put_back: Callable[[], None]
) -> Foresight | None:
    """What outputs see of later steps, where the targets are the inputs, one step on; None where
    they are not. Of a step of the user's own, for what it gives model and loss.
    """
    inputs, targets = request.inputs, request.targets
    if request.train_step is not None and reads_words(inputs):
        inputs, targets = capture_pair(request.model, run)
        put_back()
    shifted = _find_shifted(inputs, targets)
    if shifted is None:
        return None
    try:
        return find_foresight(request.model, inputs, shifted)
    finally:
        put_back()


def reads_words(inputs: Any) -> bool:
    """Whether an input holds whole numbers in sequences, shape (N, T)."""
    return any(
        t.dim() == 2 and t.dtype in (torch.int64, torch.int32) and t.shape[1] >= SHORTEST
        for t in _list_dense(inputs)
    )


def _list_dense(value: Any) -> list[Tensor]:
    """The tensors in a nested value whose shape and values can be read: none sparse or nested."""
    return [
        t
        for t in list_tensors(value)
        if type(t) in EXACT and t.layout is torch.strided and not t.is_nested
    ]


def _find_shifted(inputs: Any, targets: Any) -> tuple[Tensor, Tensor] | None:
    """The input, shape (N, T, ...), that the targets are one step ahead of, and which of their
    steps, shape (N, T), count.
    """
    given = [t for t in _list_dense(inputs) if t.dim() in (2, 3)]
    wanted = _list_dense(targets)
    for sequence in given:
        if sequence.shape[1] < SHORTEST or sequence.shape[0] < 2 or sequence.dtype == torch.bool:
            continue
        for target in wanted:
            later = _align(target.detach(), sequence)
            if later is None:
                continue
            counted = later != _IGNORED
            same = (later == sequence) & counted
            ahead = (later[:, :-1] == sequence[:, 1:]) & counted[:, :-1]
            whole = int(counted[:, :-1].sum())
            if whole and ahead.sum() >= SHIFTED * whole and same.sum() <= CHANCE * counted.sum():
                return sequence, counted.reshape(*sequence.shape[:2], -1).any(-1)
    return None


def _align(target: Tensor, sequence: Tensor) -> Tensor | None:
    """The targets in the shape of the sequence; of one step less, those of the last are ignored."""
    if target.device != sequence.device:
        return None
    if target.numel() == sequence.numel():
        return target.reshape(sequence.shape)
    n, steps = sequence.shape[:2]
    if sequence.dim() == 2 and target.numel() == n * (steps - 1):
        return F.pad(target.reshape(n, steps - 1), (0, 1), value=_IGNORED)
    return None


def capture_pair(model: nn.Module, run: Callable[[], Any]) -> tuple[Any, Any]:
    """What one step gives the model first, and its first loss of classes as the target; None for
    what is not seen.
    """
    given: list[Any] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not args or not kwargs:
            given.append(fresh(kwargs or args))

    handle = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with _Targets() as targets:
            run()
    except Exception:  # the step's own; it is told elsewhere
        return None, None
    finally:
        handle.remove()
    return next(iter(given), None), next(iter(targets.seen), None)


class _Targets(TorchFunctionMode):
    """Keeps the targets of losses of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the call, and keep what it is given."""
        named = kwargs or {}
        if func in (F.cross_entropy, F.nll_loss):
            target = args[1] if len(args) > 1 else named.get("target")
            if isinstance(target, Tensor) and not target.is_floating_point():
                self.seen.append(target.detach().clone())
        return func(*args, **named)


def _replace(inputs: Any, sequence: Tensor, places: slice) -> Any:
    """The inputs with the steps of `places` of other samples, in another order."""
    changed = sequence.detach().clone()
    changed[:, places] = sequence.detach()[:, places].flip(1).roll(1, 0)
    return torch.utils._pytree.tree_map(lambda v: changed if v is sequence else v, inputs)


def _differ(a: Any, b: Any, chosen: tuple[Tensor, slice]) -> float | None:
    """The greatest difference of the outputs at the steps that count, over the output's size; None
    where the steps are not found in them.
    """
    counted, places = chosen
    worst = None
    for x, y in zip(tensors_of(a), tensors_of(b), strict=False):
        if x.shape != y.shape or x.shape[:2] != counted.shape or x.dim() < 3:
            continue
        kept = counted.clone()
        outside = torch.ones_like(kept)
        outside[:, places] = False
        kept &= ~outside
        if not bool(kept.any()) or not bool(x.isfinite().all()):
            continue
        gap = (x.detach()[kept] - y.detach()[kept]).double().abs().max()
        worst = max(worst or 0.0, float(gap / x.detach().double().abs().max().clamp(min=1e-30)))
    return worst


def _before(cut: int, shape: torch.Size) -> Callable[[Tensor], dict[str, float] | None]:
    """A checksum of the steps before `cut` of what has the shape (N, T, ...)."""

    def summarise(tensor: Tensor) -> dict[str, float] | None:
        if tensor.dim() < 2 or tensor.shape[:2] != shape or not tensor.is_floating_point():
            return None
        with torch._C.DisableTorchFunction(), torch.no_grad():
            early = tensor.detach()[:, :cut].double()
            ramp = torch.linspace(1.0, 2.0, max(1, early.numel()), dtype=torch.float64)
            ramp = ramp.to(early.device)[: early.numel()]
            return {
                "early": float((early.reshape(-1) * ramp).sum()),
                "size": float(early.abs().sum()),
            }

    return summarise


def _find_first(base: Any, other: Any) -> int | None:
    """The first row that gives something else before the changed steps."""
    for i in Flow(base).primitives():
        if i >= len(other.calls) or base.calls[i].kind != other.calls[i].kind:
            return None
        for a, b in zip(base.calls[i].outputs, other.calls[i].outputs, strict=False):
            if a.stats and b.stats:
                gap = abs(a.stats["early"] - b.stats["early"])
                if gap > 1e-7 * max(a.stats["size"], 1e-30):
                    return i
    return None
