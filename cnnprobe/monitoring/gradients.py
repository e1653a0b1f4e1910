"""The hooks of the gradients of what layers put out."""

from collections import OrderedDict
from typing import Any

from torch import Tensor

from cnnprobe.monitoring.wiring import Wiring
from cnnprobe.records.ledger import Slot
from cnnprobe.stats.native import NOT_FINITE
from cnnprobe.stats.sheet import SMALL, Cell, is_plain

_KEY = "cnnprobe"  # in a tensor's dictionary of hooks, beside torch's own numbers


class GradientHook:
    """The hook of one output's gradient."""

    __slots__ = ("cell", "slot", "wiring")
    __torch_unserializable__ = True

    def __init__(self, wiring: Wiring | None = None, slot: Slot | None = None) -> None:
        self.wiring = wiring
        self.slot = slot
        self.cell: Cell | None = None

    def __call__(self, gradient: Tensor) -> None:
        """Measure the gradient as it passes."""
        wiring = self.wiring
        if wiring is None or not wiring.observing:
            return
        cell = self.cell
        try:
            if cell is None:
                cell = self.cell = wiring.cell(self.slot)  # type: ignore[arg-type]
            if (
                type(gradient) is Tensor
                and gradient.dtype is cell.dtype
                and gradient.is_cpu
                and gradient.is_contiguous()
                and not gradient.is_neg()
                and not gradient.is_nested
            ):
                count = gradient.numel()
                record = wiring.record if count < SMALL else wiring.record_freely
                status = record(gradient.data_ptr(), count, cell.address)  # type: ignore[misc]
            else:
                status = self.prepare(wiring, cell, gradient)
            if status and status != NOT_FINITE:
                wiring.sheet.record(gradient, cell)
                status = wiring.glance()
        except Exception as error:  # the user's backward goes on, whatever we stumble over
            wiring.stumbled[
                f"a gradient was not observed ({type(error).__name__}: {error}); please report this"
            ] = None
            return
        if status and wiring.odd_gradient is not None and self.slot is not None:
            wiring.odd_gradient(self.slot, gradient)

    @staticmethod
    def prepare(wiring: Wiring, cell: Cell, gradient: Tensor) -> int:
        """What the kernel cannot measure, or does not know yet."""
        if wiring.record is not None and is_plain(gradient):
            cell.prepare(gradient.dtype, wiring.sheet.address)
            status: int = wiring.record(gradient.data_ptr(), gradient.numel(), cell.address)
            return status
        cell.dtype = None
        wiring.sheet.record(gradient, cell)
        return wiring.glance()

    def __deepcopy__(self, memo: object) -> "GradientHook":
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def hook_gradient(output: Tensor, hook: GradientHook) -> None:
    """What Tensor.register_hook does, in a fifth of its time: a handle for each of thousands is not
    needed.
    """
    node = output.grad_fn
    if (
        node is None
        or output._backward_hooks is not None
        or not hasattr(node, "_register_hook_dict")
    ):
        output.register_hook(hook)  # type: ignore[no-untyped-call]
        return
    output._backward_hooks = OrderedDict(((_KEY, hook),))
    node._register_hook_dict(output)
