"""The hooks of a monitor: what runs at every call of a layer on an observed step, written for few
instructions rather than for beauty.

They return None, are per model, survive deepcopy and pickle as inert objects, and stand in a
module's dictionary of hooks only while a step is observed.
"""

from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.utils.hooks import RemovableHandle

from cnnprobe.errors import NonFiniteError
from cnnprobe.monitoring.gradients import GradientHook, hook_gradient
from cnnprobe.monitoring.wiring import Wiring
from cnnprobe.recorder.inventory import class_of
from cnnprobe.recorder.values import leaves
from cnnprobe.records.ledger import Slot
from cnnprobe.stats.native import NOT_FINITE, split_sizes
from cnnprobe.stats.sheet import SMALL, Cell, RowPlan, is_plain

backward_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)


class LayerHook:
    """The forward hook of one module."""

    __slots__ = (
        "calls",
        "cells",
        "fqn",
        "gradients",
        "key",
        "module",
        "others",
        "recalls",
        "wiring",
    )
    __torch_unserializable__ = True

    def __init__(
        self, wiring: Wiring | None = None, module: nn.Module | None = None, fqn: str = ""
    ) -> None:
        self.wiring = wiring
        self.module = module
        self.fqn = fqn
        self.calls = self.recalls = 0
        self.cells: list[Cell] = []
        self.gradients: list[GradientHook] = []
        self.others: dict[tuple[int, str], tuple[Cell, GradientHook]] = {}  # of nested outputs
        self.key = RemovableHandle.next_id
        RemovableHandle.next_id += 1

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Measure what came out, and hook its gradient."""
        if is_dynamo_compiling():  # for torch.cond, which traces hooks too
            return
        wiring = self.wiring
        if (
            type(output) is not Tensor
            or wiring is None
            or not wiring.active
            or module is not self.module
            or get_ident() != wiring.thread
        ):
            self.unusual(module, args, output)
            return
        at = self.calls
        self.calls = at + 1
        if at >= len(self.cells):
            self.extend(wiring, module)
        cell = self.cells[at]
        try:
            # A negated or nested tensor is told in `prepare`: what a module gives does not change
            # in that from call to call.
            if output.dtype is not cell.dtype or not output.is_cpu or not output.is_contiguous():
                status = self.prepare(wiring, cell, output)
            else:
                pointer, version, count = output.data_ptr(), output._version, output.numel()
                last = wiring.last
                if last[1] == pointer and last[2] == version and last[3] == count:
                    # another view of what was measured last
                    status = wiring.repeat(cell.address)  # type: ignore[misc]
                else:
                    status = (wiring.record if count < SMALL else wiring.record_freely)(
                        pointer, count, cell.address
                    )  # type: ignore[misc]
                    wiring.last = output, pointer, version, count
            if wiring.gradients and output.requires_grad:
                hook_gradient(output, self.gradients[at])
        except Exception as error:  # the user's forward goes on, whatever we stumble over
            wiring.stumbled[
                (
                    f"'{self.fqn}' was not observed in full ({type(error).__name__}: {error}); "
                    "please "
                    "report this"
                )
            ] = None
            return
        if status:
            self.settle(wiring, status, at, args, output)

    def prepare(self, wiring: Wiring, cell: Cell, output: Tensor) -> int:
        """Measure what the kernel cannot, or does not know yet; the status as the kernel gives
        it.
        """
        wiring.release()
        if wiring.record is not None and is_plain(output):
            cell.prepare(output.dtype, wiring.sheet.address)
            pointer, version, count = output.data_ptr(), output._version, output.numel()
            status: int = wiring.record(pointer, self.share(wiring, output), cell.address)
            wiring.last = output, pointer, version, count
            return status
        part = output
        if wiring.fraction < 1 and output.dim() and output.shape[0] > 1:
            with torch.no_grad():
                part = output.detach()[: _part(output.shape[0], wiring.fraction)]
        wiring.sheet.record(part, cell)
        return wiring.glance()

    @staticmethod
    def share(wiring: Wiring, output: Tensor) -> int:
        """How many values are read: all, or those of a part of the batch."""
        count = output.numel()
        if wiring.fraction >= 1 or output.dim() == 0 or output.shape[0] < 2:
            return count
        return count // output.shape[0] * _part(output.shape[0], wiring.fraction)

    def settle(self, wiring: Wiring, status: int, at: int, args: Any, output: Tensor) -> None:
        """What the kernel could not do is done another way; what is not finite is told."""
        if status != NOT_FINITE:
            wiring.release()
            wiring.sheet.record(output, self.cells[at])
            status = wiring.glance()
        if status == NOT_FINITE and wiring.odd is not None:
            wiring.odd(self, at, args, output)

    def extend(self, wiring: Wiring, module: nn.Module) -> None:
        """The first time that the module is called so often in one pass."""
        kind = class_of(module).__name__
        at = len(self.cells)
        self.cells.append(wiring.cell(Slot(fqn=self.fqn, what="activation", call=at, kind=kind)))
        slot = Slot(fqn=self.fqn, what="gradient", call=at, kind=kind)
        self.gradients.append(GradientHook(wiring, slot))

    # -- what is not an ordinary call --------------------------------------------------------------

    def unusual(self, module: nn.Module, args: Any, output: Any) -> None:
        """Nested outputs, recomputed calls, calls outside of the root's, other threads, copies; or
        nothing is observed.
        """
        wiring = self.wiring
        if wiring is None or not wiring.observing or output is None:
            return
        if module is not self.module or get_ident() != wiring.thread:
            wiring.strangers += 1
            return
        if backward_task() != -1:
            self.again(wiring, output)
        elif torch.is_grad_enabled() or wiring.active:
            try:
                self.nested(wiring, module, args, output)
            except NonFiniteError:
                raise
            except Exception as error:  # see above
                wiring.stumbled[
                    (
                        f"'{self.fqn}' was not observed in full ({type(error).__name__}: {error}); "
                        "please report this"
                    )
                ] = None

    def nested(self, wiring: Wiring, module: nn.Module, args: Any, output: Any) -> None:
        """Each tensor of a nested output; the first one, if it is the whole, goes by the ordinary
        cells.
        """
        at = self.calls
        self.calls = at + 1
        kind = class_of(module).__name__
        wiring.release()
        for path, leaf in leaves(output):
            if not isinstance(leaf, Tensor):
                continue
            if (at, path) not in self.others:
                cell = wiring.cell(
                    Slot(fqn=self.fqn, what="activation", call=at, output=path, kind=kind)
                )
                self.others[at, path] = (
                    cell,
                    GradientHook(
                        wiring, Slot(fqn=self.fqn, what="gradient", call=at, output=path, kind=kind)
                    ),
                )
            cell, gradient = self.others[at, path]
            status = self.prepare(wiring, cell, leaf)
            if wiring.gradients and leaf.requires_grad:
                hook_gradient(leaf, gradient)
            if status == NOT_FINITE and wiring.odd is not None:
                wiring.odd(self, at, args, leaf)

    def again(self, wiring: Wiring, output: Any) -> None:
        """A call that activation checkpointing makes again: measured already, but its gradient may
        pass here alone.
        """
        at = self.recalls
        self.recalls = at + 1
        wiring.recomputed[self.fqn] = wiring.recomputed.get(self.fqn, 0) + 1
        if (
            wiring.gradients
            and type(output) is Tensor
            and output.requires_grad
            and at < len(self.gradients)
        ):
            hook_gradient(output, self.gradients[at])

    def attach(self) -> None:
        """Stand in the module's hooks; as register_forward_hook does, without a handle for each of
        thousands.
        """
        if self.module is not None:
            self.module._forward_hooks[self.key] = self

    def detach(self) -> None:
        """Stand there no longer."""
        if self.module is not None:
            self.module._forward_hooks.pop(self.key, None)

    def __deepcopy__(self, memo: object) -> "LayerHook":
        return type(self)()  # a copy of the model is a stranger to us

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def _part(samples: int, fraction: float) -> int:
    return max(1, round(samples * fraction))


class CompositeHook(LayerHook):
    """That of a module whose output may be what a child of it has put out just before: it is not
    told twice.
    """

    __slots__ = ()

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Measure what came out, unless it is measured."""
        if is_dynamo_compiling():
            return
        wiring = self.wiring
        if (
            wiring is not None
            and type(output) is Tensor
            and output is wiring.last[0]
            and wiring.active
            and output._version == wiring.last[2]
        ):
            return
        super().__call__(module, args, output)


class PartHook(LayerHook):
    """That of any module where only a part of the batch is read."""

    __slots__ = ()

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Measure a part of what came out."""
        if is_dynamo_compiling():
            return
        wiring = self.wiring
        if wiring is not None:
            for cell in self.cells:
                cell.dtype = None  # always by way of `prepare`
        super().__call__(module, args, output)


class ChannelHook(LayerHook):
    """That of a rectifier: it also counts the values of each channel that are not zero."""

    __slots__ = ()

    def prepare(self, wiring: Wiring, cell: Cell, output: Tensor) -> int:
        """The same in the same time, with the channels."""
        kernel = wiring.kernel
        if kernel is None or output.dim() < 2 or not is_plain(output):
            return super().prepare(wiring, cell, output)
        if cell.shape != output.shape or cell.plan is None:
            sizes = split_sizes(output)
            if sizes is None:
                return super().prepare(wiring, cell, output)
            cell.plan = RowPlan(sizes, None if cell.plan is None else cell.plan.fired)
            cell.shape = output.shape
        cell.prepare(output.dtype, wiring.sheet.address)
        cell.dtype = None  # by way of `prepare` the next time too
        pointer = output.data_ptr()
        status: int = kernel.record_channels(pointer, cell.address, cell.plan.address)
        wiring.last = output, pointer, output._version, output.numel()
        return status


class LossHook:
    """The forward hook of a loss module: a loss is seen without being given. A copy sees none."""

    def __init__(self, take: Callable[[Tensor], None] | None = None) -> None:
        self._take = take

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        """Hand on what may be a loss."""
        is_loss = isinstance(output, Tensor) and output.requires_grad and output.numel() == 1
        if self._take is not None and is_loss:
            self._take(output)

    def __deepcopy__(self, memo: object) -> "LossHook":
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
