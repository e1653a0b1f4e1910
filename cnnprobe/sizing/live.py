"""The bytes of all tensors that are alive, storage by storage, and their peak; and the
operations.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cnnprobe.sizing.copies import count_copies

_DEVICE = torch.ops.prim.device.default


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts each storage once, from the operation that made it until nothing refers to it: not
    Python, not autograd's graph.

    `part` says what is being made; `parts` are the bytes that are alive of each part, `at_peak`
    those at the moment when there were most. `flops` is what torch's formulas give for the
    operations. `on_cpu` is the peak with oneDNN's copies.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # it loads Triton, where there is one

        super().__init__()  # type: ignore[no-untyped-call]
        self._formulas = flop_registry
        self.part = "inputs"
        self.parts: dict[str, int] = {}
        self.live = 0
        self.peak = 0
        self.on_cpu = 0
        self.flops = 0
        self.at_peak: dict[str, int] = {}
        self._known: dict[int, tuple[weakref.ref[Any], str, int]] = {}

    def reset_peak(self) -> None:
        """Look for the peak from here on."""
        self.on_cpu = 0
        self._keep_peak()

    def _keep_peak(self) -> None:
        self.peak, self.at_peak = self.live, dict(self.parts)

    def add(self, tensors: Iterable[Tensor | None], part: str) -> None:
        """Count tensors as this part; those that are known change to it."""
        for tensor in tensors:
            for dense in () if tensor is None else _list_dense(tensor):
                self._forget(dense.untyped_storage()._cdata)
                self._count(dense, part)

    def _count(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._known.get(key)
        if known is not None and known[0]() is not None:
            return
        self._known[key] = weakref.ref(storage, self._make_release(key)), part, size
        self.parts[part] = self.parts.get(part, 0) + size
        self.live += size
        if self.live > self.peak:
            self._keep_peak()

    def _make_release(self, key: int) -> Callable[[Any], None]:
        return lambda _: self._forget(key)

    def _forget(self, key: int) -> None:
        found = self._known.pop(key, None)
        if found is not None:
            self.parts[found[1]] -= found[2]
            self.live -= found[2]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The operation, and its outputs counted."""
        # torch asks for the device of every output, and FakeTensorMode answers slowly
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        # torch's FlopCounterMode hooks every module, which an autograd.grad in a forward refuses
        if count := self._formulas.get(func._overloadpacket):
            self.flops += count(*args, **kwargs, out_val=output)
        for leaf in tree_leaves(output):
            for dense in _list_dense(leaf) if isinstance(leaf, Tensor) else ():
                self._count(dense, self.part)
        if copies := count_copies(func, args, output):
            self.on_cpu = max(self.on_cpu, self.live + copies)
        return output


def _list_dense(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensors with a storage that one is made of: itself, or those of a sparse one."""
    if tensor.layout is torch.strided:
        return (tensor,)
    return (tensor._indices(), tensor._values()) if tensor.layout is torch.sparse_coo else ()
