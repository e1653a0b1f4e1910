"""Whether a sample's output depends on the other samples of its batch, and where that begins."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Flow, describe, operation, option
from cnnprobe.records.trace import ModuleCall
from cnnprobe.training.passes import difference, forward, fresh, tensors_of

# of the output's magnitude; the same shapes give the same kernels, so rounding hardly differs
SMALLEST_LEAK = 1e-4


def _rest(n: int) -> slice:
    """The samples between the first and the last; of two the second."""
    return slice(1, -1) if n > 2 else slice(1, None)


def _middle(n: int) -> slice:
    """A single sample."""
    return slice(n // 2, n // 2 + 1)


def _others(n: int, kept: slice) -> Callable[[Tensor], dict[str, float] | None]:
    """A checksum of the samples that are left as they are."""

    def summarise(tensor: Tensor) -> dict[str, float] | None:
        if (
            tensor.dim() == 0
            or tensor.shape[0] != n
            or not tensor.is_floating_point()
            or tensor.device.type == "meta"
        ):
            return None
        with torch._C.DisableTorchFunction(), torch.no_grad():
            rest = tensor.detach()[kept].double()
            ramp = torch.linspace(
                1.0, 2.0, max(1, rest.numel()), dtype=torch.float64, device=rest.device
            )
            return {
                "others": float((rest.reshape(-1) * ramp[: rest.numel()]).sum()),
                "size": float(rest.abs().sum()),
            }

    return summarise


def other_ends(inputs: Any) -> Any:
    """The inputs with another first and last sample; of two, another first one alone."""
    generator = torch.Generator().manual_seed(1)

    def change(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] < 2:
            return value
        changed = value.detach().clone()
        if value.is_floating_point():
            noise = torch.randn((2, *value[0].shape), generator=generator).to(value)
            other = 3.0 * noise * value.std().clamp(min=1e-3) + value.mean()
        else:
            other = torch.stack([value[1], value[-2]])
        changed[0] = other[0]
        if value.shape[0] > 2:
            changed[-1] = other[1]
        return changed

    return torch.utils._pytree.tree_map(change, inputs)


def other_than_middle(inputs: Any) -> Any:
    """The inputs with every other sample than the middle one changed: those of the batch in
    reverse, three times as far from their mean.
    """

    def change(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] < 2:
            return value
        kept, turned = value.detach(), value.detach().flip(0)
        if value.is_floating_point():
            turned = 3.0 * (turned - turned.mean()) + turned.mean()
        middle = _middle(len(value))
        turned[middle] = kept[middle]
        return turned

    return torch.utils._pytree.tree_map(change, inputs)


def find_leak(
    model: nn.Module, inputs: Any, n: int
) -> tuple[str | None, float, tuple[str, str]] | None:
    """Where, in eval mode, other samples in the batch change the others first, by how much, and the
    call that does it with its line; None where they do not.

    The samples at the ends are changed; where that shows, but hardly, all but one.
    """
    found = _find_leak(model, inputs, other_ends(inputs), n, _rest(n))
    if found is not None and found[1] < SMALLEST_LEAK:
        found = _find_leak(model, inputs, other_than_middle(inputs), n, _middle(n))
    return None if found is None or found[1] < SMALLEST_LEAK else found


def _find_leak(
    model: nn.Module, inputs: Any, others: Any, n: int, kept: slice
) -> tuple[str | None, float, tuple[str, str]] | None:
    """The same for other inputs, of which the kept samples are equal, also where it is little."""
    base = forward(model, fresh(inputs), training=False, summarise=_others(n, kept))
    other = forward(model, others, training=False, summarise=_others(n, kept))
    if (
        base.error is not None
        or other.error is not None
        or any(t.dim() == 0 or t.shape[0] != n for t in tensors_of(base.output))
    ):
        return None
    gap = difference(base.output, other.output, lambda t: t[kept])
    if not gap:
        return None
    if all(t.dim() == 2 and t.shape[1] == n for t in tensors_of(base.output)):
        columns = difference(base.output, other.output, lambda t: t[kept, kept])
        if columns is not None and columns < SMALLEST_LEAK:
            # A matrix of similarities between the samples: its ends are about the samples there.
            return None
    if all(t.dim() > 2 and t.shape[1] == n for t in tensors_of(base.output)):
        second = difference(base.output, other.output, lambda t: t[:, kept])
        if second is not None and second < SMALLEST_LEAK:
            return None  # steps first, as many as there are samples
    flow = Flow(base.trace)
    row = _find_first(flow, other.trace.calls)
    if row is None:
        return "", gap, ("", "")
    return flow.owner(row), gap, _name_mixing(flow, row, n)


def _find_first(flow: Flow, others: Sequence[ModuleCall]) -> int | None:
    """The first row whose results for the untouched samples differ from those of the other pass."""
    for i in flow.primitives():
        if i < len(others) and others[i].kind == flow.calls[i].kind:
            pairs = zip(flow.calls[i].outputs, others[i].outputs, strict=False)
            if any(a.stats and b.stats and _is_apart(a.stats, b.stats) for a, b in pairs):
                return i
    return None


def _is_apart(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return abs(a["others"] - b["others"]) > 1e-7 * max(a["size"], 1e-30)


def _name_mixing(flow: Flow, index: int, n: int) -> tuple[str, str]:
    """The call that takes the samples together: a softmax before the row where it shows that runs
    over another dim of the batch's size, that row, or the one before it that has no dim of the
    batch left (a mean over dim 0).
    """
    for at in sorted({*flow.before(index)}, reverse=True):
        if _normalises_batch(flow, flow.calls[at], n):
            return describe(flow.calls[at]), flow.calls[at].source
    for row in sorted({*flow.before(index)}, reverse=True):
        call = flow.calls[row]
        has_batch = any(t.shape[:1] == (n,) for t in call.inputs)
        is_read = index in flow.passes_on(row)
        if is_read and has_batch and not any(t.shape[:1] == (n,) for t in call.outputs):
            return describe(call), call.source
    return describe(flow.calls[index]), flow.calls[index].source


def _normalises_batch(flow: Flow, call: ModuleCall, n: int) -> bool:
    """Whether a softmax runs over the only dim of the batch's size."""
    shape = call.inputs[0].shape if call.inputs else ()
    dim = option(flow.trace, call, "dim")
    return (
        operation(call) in ("softmax", "log_softmax")
        and isinstance(dim, int)
        and -len(shape) <= dim < len(shape)
        and shape[dim] == n
        and shape.count(n) == 1
    )
