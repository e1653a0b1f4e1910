"""Values that are not finite: what the call was given while it is still at hand, and the end of the
run where that was asked for.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from cnnprobe.errors import NonFiniteError
from cnnprobe.monitoring import drafts
from cnnprobe.monitoring.hooks import LayerHook
from cnnprobe.monitoring.settings import Settings
from cnnprobe.monitoring.wiring import Wiring
from cnnprobe.recorder.inventory import class_of
from cnnprobe.recorder.values import argument_leaves, describe_tensor
from cnnprobe.records.history import NonFinite
from cnnprobe.records.ledger import Ledger
from cnnprobe.records.statistics import COUNT, INF, NAN
from cnnprobe.records.trace import TensorInfo
from cnnprobe.stats import summarise
from cnnprobe.stats.sheet import SLOT
from cnnprobe.stats.table import WRITTEN

_SMALLER = "lower the learning rate or clip the gradients: the numbers grew until they overflowed"


class WatchState(Protocol):
    """What an alarm reads of a watch; what was met first in this step is written to `seen`."""

    step: int
    seen: NonFinite | None
    ledger: Ledger
    settings: Settings
    wiring: Wiring

    @property
    def before(self) -> int | None:
        """The last observed step."""


def see(watch: WatchState, hook: LayerHook, at: int, args: Any, output: Tensor) -> None:
    """A layer has put out what is not finite; its inputs are still at hand."""
    row = watch.wiring.sheet.table.values[watch.wiring.sheet.next - 1]
    nan, inf, count = int(row[NAN]), int(row[INF]), int(row[COUNT])
    first = watch.seen or watch.ledger.nonfinite
    stops = watch.settings.raise_on_nan and nan > 0
    if first is not None and not stops:
        return
    inputs = tuple(
        _described(path, value, output)
        for path, value in argument_leaves(args, {})
        if isinstance(value, Tensor)
    )
    kind = class_of(hook.module).__name__ if hook.module is not None else ""
    if first is None:
        first = watch.seen = NonFinite(
            step=watch.step, what="activation", fqn=hook.fqn, call=at, kind=kind,
            nan=nan, inf=inf, count=count, inputs=inputs, seen_before=watch.before,
        )  # fmt: skip
    if stops:
        watch.ledger.nonfinite = first
        raise NonFiniteError(
            (
                f"step {watch.step}: {nan} of the {count} values that {_named(hook.fqn, kind)} put "
                f"out are NaN, in its call {at}"
            ),
            where=f"given {_told(inputs)}{_overflow(first)}{_since(watch.before)}",
            fix=_SMALLER if _is_overflow(first) else _advice(hook.module, inputs),
        )


def refuse_loss(watch: WatchState, value: float) -> None:
    """Stop at a loss that is not finite."""
    if math.isfinite(value):
        return
    nan, inf = int(math.isnan(value)), int(math.isinf(value))
    first = watch.ledger.nonfinite or watch.seen
    watch.ledger.nonfinite = first or NonFinite(
        step=watch.step, what="loss", fqn="", nan=nan, inf=inf, count=1, seen_before=watch.before
    )
    raise NonFiniteError(
        f"step {watch.step}: the loss is {value}",
        where=f"the loss of the training step{_overflow(first)}{_since(watch.before)}",
        fix=_SMALLER
        if _is_overflow(first)
        else (
            "look at what the loss does with this batch: log or division of 0, a target out of "
            "range"
        ),
    )


def refuse_gradients(watch: WatchState) -> None:
    """Stop before the optimizer spoils the weights; gradients that are still on a device are told
    of at the end of the step.
    """
    sheet = watch.wiring.sheet
    values = sheet.table.values[: sheet.next]
    codes = watch.ledger.codes()[values[:, SLOT].astype(np.int64)]
    odd = (values[:, WRITTEN] == 1) & (values[:, [NAN, INF]] > 0).any(1)
    if not (odd & (codes == drafts.PARAMETERS_GRADIENT)).any():
        return  # what a ReLU has stopped harms nobody
    first = np.flatnonzero(
        odd & ((codes == drafts.GRADIENT) | (codes == drafts.PARAMETERS_GRADIENT))
    )[0]
    slot = watch.ledger.slots[int(values[first, SLOT])]
    row = np.append(values[first, :WRITTEN], np.nan)
    found = drafts.event(watch.step, slot, row, watch.before)
    watch.ledger.nonfinite = watch.ledger.nonfinite or found
    raise NonFiniteError(
        (
            f"step {watch.step}: the gradient of {_named(slot.fqn, slot.kind)} has {found.nan} NaN "
            f"and {found.inf} Inf among {found.count} values, in call {slot.call}"
        ),
        where=f"the backward pass{_since(watch.before)}; the optimizer has not stepped",
        fix=(
            "look at what follows it in the forward pass: sqrt, log, norm or a division at 0, "
            "also in branches that torch.where does not take"
        ),
    )


def refuse_late(watch: WatchState) -> None:
    """Stop after the step, at what came from a device meanwhile."""
    ledger = watch.ledger
    found = ledger.nonfinite
    if found is None or not (found.nan or _has_nan(ledger)):
        return
    what = "loss" if found.what == "loss" else f"{found.what} of {_named(found.fqn, found.kind)}"
    call = f", in call {found.call}" if found.what in ("activation", "gradient") else ""
    raise NonFiniteError(
        (
            f"step {found.step}: the {what} has {found.nan} NaN and {found.inf} Inf among "
            f"{found.count} values{call}"
        ),
        where=f"the training loop{_since(found.seen_before)}; the optimizer has stepped",
        fix=(
            "go back to the weights from before, and run this step again on the CPU to see what "
            "the call was given"
        ),
    )


def _has_nan(ledger: Ledger) -> bool:
    """Whether the latest observed step has a NaN in activations or parameters; of gradients a
    GradScaler may have taken care.
    """
    if not ledger.rows:
        return False
    rows = ledger.rows[-1]
    codes = ledger.codes()[: len(rows)]
    return bool((rows[(codes == drafts.PARAMETER) | (codes == drafts.ACTIVATION), NAN] > 0).any())


def _is_overflow(first: NonFinite | None) -> bool:
    return first is not None and first.what == "activation" and not first.nan


def _overflow(first: NonFinite | None) -> str:
    """Where the Inf came from that made the NaN."""
    if first is None or not _is_overflow(first):
        return ""
    return (
        f"; {_named(first.fqn, first.kind)} had put out {first.inf} Inf in its call {first.call} "
        f"of step {first.step}, given {_told(first.inputs)}"
    )


def _named(fqn: str, kind: str) -> str:
    return (f"'{fqn}'" if fqn else "the model") + (f" ({kind})" if kind else "")


def _since(before: int | None) -> str:
    return f"; the last observed step before it, {before}, was finite" if before is not None else ""


def _described(path: str, value: Tensor, output: Tensor) -> TensorInfo:
    """An input; what the call has written over has no statistics any more."""
    statistics = None if value is output else summarise(value)
    return describe_tensor(
        value, path, None, None if statistics is None else statistics.as_mapping()
    )


def _told(inputs: Sequence[TensorInfo]) -> str:
    said = []
    for info in inputs[:2]:
        stats = info.stats
        odd = stats["nan"] + stats["inf"] if stats else 0
        values = (
            ""
            if not stats
            else f", {odd} of {stats['count']} not finite"
            if odd
            else f", all finite, from {stats['min']:.3g} to {stats['max']:.3g}"
        )
        said.append(f"{info.shape} {info.dtype}{values}")
    return "; ".join(said) or "no tensor"


def _advice(module: nn.Module | None, inputs: Sequence[TensorInfo]) -> str:
    for name, parameter in module.named_parameters(recurse=False) if module is not None else ():
        found = summarise(parameter)
        if found is not None and found.nan + found.inf:
            return (
                f"its {name} holds {found.nan + found.inf} values that are not finite: the update "
                "of an earlier step was too large, or its gradient NaN"
            )
    if any(info.stats and info.stats["nan"] + info.stats["inf"] for info in inputs):
        return (
            "its input was not finite already: look at the functions between it and the layer "
            "before, or at the data"
        )
    return "keep its input in the range where it has a value"
