"""Whether a sample's output depends on the other samples of its batch, and where that begins."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Flow, describe
from cnnprobe.records.trace import ModuleCall
from cnnprobe.training.passes import difference, forward, fresh, tensors_of

# of the output's magnitude; the same shapes give the same kernels, so rounding hardly differs
SMALLEST_LEAK = 1e-4


def _rest(n: int) -> slice:
    """The samples between the first and the last; of two the second."""
    return slice(1, -1) if n > 2 else slice(1, None)


def _others(n: int) -> Callable[[Tensor], dict[str, float] | None]:
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
            rest = tensor.detach()[_rest(n)].double()
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


def find_leak(
    model: nn.Module, inputs: Any, n: int
) -> tuple[str | None, float, tuple[str, str]] | None:
    """Where, in eval mode, other samples at the ends of the batch change the others first, by how
    much, and the call that does it with its line; None where they do not.
    """
    base = forward(model, fresh(inputs), training=False, summarise=_others(n))
    other = forward(model, other_ends(inputs), training=False, summarise=_others(n))
    if (
        base.error is not None
        or other.error is not None
        or any(t.dim() == 0 or t.shape[0] != n for t in tensors_of(base.output))
    ):
        return None
    gap = difference(base.output, other.output, lambda t: t[_rest(n)])
    if gap is None or gap < SMALLEST_LEAK:
        return None
    if all(t.dim() == 2 and t.shape[1] == n for t in tensors_of(base.output)):
        columns = difference(base.output, other.output, lambda t: t[_rest(n), _rest(n)])
        if columns is not None and columns < SMALLEST_LEAK:
            # A matrix of similarities between the samples: its ends are about the samples there.
            return None
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
    """The call that takes the samples together: the row where it shows, or the one before it that
    has no dim of the batch left (a mean over dim 0).
    """
    for row in sorted({*flow.before(index)}, reverse=True):
        call = flow.calls[row]
        has_batch = any(t.shape[:1] == (n,) for t in call.inputs)
        is_read = index in flow.passes_on(row)
        if is_read and has_batch and not any(t.shape[:1] == (n,) for t in call.outputs):
            return describe(call), call.source
    return describe(flow.calls[index]), flow.calls[index].source
