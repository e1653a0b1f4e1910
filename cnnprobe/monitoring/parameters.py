"""Parameters around an optimizer step: what they hold, their gradients as the optimizer gets them,
and by how much it changes them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnprobe.monitoring.wiring import Wiring
from cnnprobe.recorder.inventory import class_of, has_values, named_modules
from cnnprobe.records.ledger import Slot
from cnnprobe.stats.sheet import Cell, is_plain

_MEASURED = (torch.strided, torch.sparse_coo)  # the others cannot be subtracted
_ALIGNED = 64  # bytes, as in the kernel


@dataclass(slots=True)
class _Watched:
    """One parameter and the cells of what is measured of it."""

    name: str
    kind: str
    tensor: nn.Parameter
    gradient: Cell | None = None
    value: Cell | None = None
    update: Cell | None = None  # never measured by the kernel, it only has a slot


class Changes:
    """By how much a step has changed the parameters: norms by slot of the update and row of the
    value, perhaps still on a device.
    """

    def __init__(
        self, slots: list[int], rows: list[int], norms: NDArray[np.float64] | Tensor
    ) -> None:
        self.slots = slots
        self.rows = rows  # where in the sheet the value before the step stands
        self.norms = norms

    def read(self) -> NDArray[np.float64]:
        """The norms; waits for the device."""
        return self.norms.double().cpu().numpy() if isinstance(self.norms, Tensor) else self.norms


class Parameters:
    """The trainable parameters of a model; the same ones the whole time."""

    def __init__(
        self, model: nn.Module, wiring: Wiring, *, values: bool, updates: bool, sums: bool
    ) -> None:
        """`sums` are asked for where the parameters of several ranks are compared."""
        self.wiring = wiring
        self.values = values
        self.updates = updates
        self.watched: list[_Watched] = []
        seen: set[int] = set()
        for fqn, module, first in named_modules(model):
            for name, parameter in module._parameters.items() if first else ():
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    self.watched.append(
                        _Watched(
                            f"{fqn}.{name}" if fqn else name, class_of(module).__name__, parameter
                        )
                    )
        self._buffer: NDArray[np.int8] = np.zeros(0, dtype=np.int8)
        self._kept: Any = None
        self._has_sums = sums
        self.sums: dict[int, int] = {}  # of the words of each that was kept, by its id

    def before_step(self) -> None:
        """Measure gradients and values, and keep what the step will change."""
        self._kept, self.sums = None, {}
        some = [
            each
            for each in self.watched
            if each.tensor.requires_grad
            and has_values(each.tensor)
            and each.tensor.layout in _MEASURED
        ]
        if self.wiring.gradients:
            pairs = [(each, each.tensor.grad) for each in some]
            self._measure(
                "gradient",
                [(each, _own_part(gradient)) for each, gradient in pairs if gradient is not None],
            )
        if self.values:
            first = self.wiring.sheet.next
            jobs = self._measure("value", [(each, _own_part(each.tensor)) for each in some])
            if self.updates:
                self._keep(some, jobs, first)

    def _measure(self, role: str, pairs: list[tuple[_Watched, Tensor]]) -> NDArray[np.int64] | None:
        """A row for each, in their order; the kernel's jobs where it could do all of them."""
        wiring = self.wiring
        wiring.sheet.reserve(2 * len(pairs))
        wiring.release()
        cells = [self._cell(each, role) for each, _ in pairs]
        if wiring.kernel is None or not all(is_plain(tensor) for _, tensor in pairs):
            for cell, (_, tensor) in zip(cells, pairs, strict=True):
                wiring.sheet.record(tensor, cell)
            return None
        for cell, (_, tensor) in zip(cells, pairs, strict=True):
            if tensor.dtype is not cell.dtype:
                cell.prepare(tensor.dtype, wiring.sheet.address)
        jobs = np.array(
            [
                (t.data_ptr(), t.numel(), c.address, 0)
                for c, (_, t) in zip(cells, pairs, strict=True)
            ],
            dtype=np.int64,
        ).reshape(-1, 4)
        wiring.kernel.record_each(jobs.ctypes.data, len(jobs))
        for status, cell, (_, tensor) in zip(jobs[:, 3].tolist(), cells, pairs, strict=True):
            if status in {1, 2, 3}:  # doubles near the ends of their range
                wiring.sheet.record(tensor, cell)
        return jobs

    def _cell(self, each: _Watched, role: str) -> Cell:
        cell: Cell | None = getattr(each, role)
        if cell is None:
            what = "parameter" if role == "value" else role
            cell = self.wiring.cell(
                Slot(fqn=each.name, what=what, kind=each.kind, is_parameters=what == "gradient")  # type: ignore[arg-type]
            )
            setattr(each, role, cell)
        return cell

    def _keep(self, some: list[_Watched], jobs: NDArray[np.int64] | None, first: int) -> None:
        slots = [self._cell(each, "update").slot for each in some]
        rows = list(range(first, first + len(some)))
        tensors = [_own_part(each.tensor) for each in some]
        dtypes = [tensor.dtype for tensor in tensors]
        if jobs is None:
            with torch.no_grad():
                self._kept = (
                    slots,
                    rows,
                    tensors,
                    dtypes,
                    [tensor.detach().clone() for tensor in tensors],
                )
            return
        size = sum(
            -(-each.tensor.numel() * each.tensor.element_size() // _ALIGNED) * _ALIGNED
            for each in some
        )
        if len(self._buffer) < size:
            self._buffer = np.zeros(size, dtype=np.int8)
        kernel = self.wiring.kernel
        if kernel is not None and len(jobs):
            sums = np.zeros(len(jobs), dtype=np.uint64)
            address = sums.ctypes.data if self._has_sums else None
            kernel.keep(jobs.ctypes.data, len(jobs), self._buffer.ctypes.data, address)
            if self._has_sums:
                self.sums = dict(
                    zip([id(each.tensor) for each in some], sums.tolist(), strict=True)
                )
        self._kept = (slots, rows, tensors, dtypes, jobs)

    def after_step(self) -> Changes | None:
        """By how much the step has changed what was kept."""
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        slots, rows, tensors, dtypes, before = kept
        if not tensors:
            return Changes([], [], np.zeros(0))
        if isinstance(before, list):
            with torch.no_grad():
                differences = [
                    now.detach() - then for now, then in zip(tensors, before, strict=True)
                ]
                return Changes(
                    slots,
                    rows,
                    torch.stack([_norm(difference) for difference in differences]),
                )
        if not all(
            is_plain(t) and t.numel() == n and t.dtype is d
            for t, n, d in zip(tensors, before[:, 1].tolist(), dtypes, strict=True)
        ):
            return None  # the step has put something else in its place
        before[:, 0] = [tensor.data_ptr() for tensor in tensors]
        norms = np.zeros(len(before))
        kernel = self.wiring.kernel
        if kernel is not None:
            kernel.changes(
                before.ctypes.data, len(before), self._buffer.ctypes.data, norms.ctypes.data
            )
        return Changes(slots, rows, norms)


def _own_part(tensor: Tensor) -> Tensor:
    """A sharded tensor's part of this rank: to ask for all of it would wait for the other ranks."""
    local = getattr(tensor.detach(), "to_local", None)
    return tensor if local is None else local()


def _norm(tensor: Tensor) -> Tensor:
    values = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor
    norm: Tensor = torch.linalg.vector_norm(values.abs().float())
    return norm
