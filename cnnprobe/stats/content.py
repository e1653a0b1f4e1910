"""What can be read of a tensor of any kind: its values as a dense one, or None where there are none
to be had.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _python_dispatch

_functorch = getattr(torch._C, "_functorch", None)
_is_batched = getattr(_functorch, "is_batchedtensor", lambda _: False)
_is_tracking = getattr(_functorch, "is_gradtrackingtensor", lambda _: False)
_unwrap = getattr(_functorch, "get_unwrapped", lambda x: x)
_is_functional = getattr(torch, "_is_functional_tensor", lambda _: False)
_tracing_state = getattr(torch._C, "_get_tracing_state", lambda: None)
_function_modes = getattr(torch._C, "_len_torch_function_stack", lambda: 1)
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_untransformed = getattr(
    sys.modules.get("torch._functorch.pyfunctorch"),
    "temporarily_clear_interpreter_stack",
    nullcontext,
)
_Unobserved = getattr(torch._C, "DisableTorchFunction", torch._C.DisableTorchFunctionSubclass)

_BLOCKED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The values of a tensor as a strided, real one; zeros that are only implied, and how often
    each value is repeated.
    """

    values: Tensor
    implied_zeros: int = 0
    repeats: int = 1


@contextmanager
def disable_user_modes() -> Iterator[None]:
    """No gradient, no torch function and no dispatch mode of the user's sees what is done
    inside.
    """
    with (
        _Unobserved(),
        _untransformed(),
        torch.no_grad(),
        _python_dispatch._disable_current_modes(),
    ):
        yield


def is_observed() -> bool:
    """Whether a torch function mode or a dispatch mode would see what we do."""
    return bool(_function_modes() or _dispatch_modes())


def read_content(tensor: Tensor, *, channels: bool = False) -> Content | None:
    """The values of `tensor`; None for what holds none that can be read: meta, fake, vmapped,
    traced.

    To be called under `unobserved`. A DTensor gives the shard of this rank: its whole would be a
    collective, at which ranks that do not call it hang. With `channels` dimension 1 is kept as it
    is. May raise what torch raises for tensors that refuse to be read.
    """
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        return None
    while _is_tracking(tensor):
        tensor = _unwrap(tensor)
    if not _is_readable(tensor):
        return None
    tensor = tensor.detach()
    tensor = _get_local(tensor)
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    elif tensor.is_nested:
        tensor = (
            torch.cat([part.reshape(-1) for part in tensor.unbind()])
            if tensor.numel()
            else torch.empty(0)
        )
    elif tensor.is_mkldnn:
        tensor = tensor.to_dense()
    if tensor.layout != torch.strided:
        return _read_sparse(tensor)
    if tensor.is_complex():
        tensor = tensor.abs()
    tensor = tensor.resolve_neg()
    if not _is_allocated(tensor):
        return None
    return _drop_repeats(tensor, keep=1 if channels else None)


def _is_readable(tensor: Tensor) -> bool:
    if (
        tensor.is_meta
        or _is_batched(tensor)
        or _is_functional(tensor)
        or _tracing_state() is not None
    ):
        return False
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    return fake is None or not isinstance(tensor, fake.FakeTensor)


def _is_allocated(tensor: Tensor) -> bool:
    """False for a tensor whose storage was freed under it, as sharding frameworks do; torch reads
    on regardless.
    """
    if tensor.numel() == 0:
        return True
    last = tensor.storage_offset() + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return tensor.untyped_storage().nbytes() >= (last + 1) * tensor.itemsize


def _get_local(tensor: Tensor) -> Tensor:
    distributed = sys.modules.get("torch.distributed.tensor")
    kind = getattr(distributed, "DTensor", None)
    return tensor.to_local() if kind is not None and isinstance(tensor, kind) else tensor


def _read_sparse(tensor: Tensor) -> Content | None:
    if tensor.layout == torch.sparse_coo:
        values = tensor.coalesce().values()
    elif tensor.layout in _BLOCKED:
        values = tensor.values()
    else:
        return None
    values = values.abs() if values.is_complex() else values
    return Content(values=values, implied_zeros=tensor.numel() - values.numel())


def _drop_repeats(tensor: Tensor, *, keep: int | None) -> Content:
    """A dimension of stride 0 holds one value many times: one is read, so that `expand` to a
    million costs nothing.
    """
    repeated = [
        d
        for d, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))
        if stride == 0 and size > 1 and d != keep
    ]
    repeats = math.prod(tensor.shape[d] for d in repeated)
    for d in repeated:
        tensor = tensor.narrow(d, 0, 1)
    return Content(values=tensor, repeats=repeats)
