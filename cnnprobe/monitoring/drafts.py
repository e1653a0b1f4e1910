"""A step between its end and its place in the ledger: what was measured of it may still be on a
device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnnprobe.monitoring.parameters import Changes
from cnnprobe.monitoring.ranks import RankDraft
from cnnprobe.records.history import NonFinite
from cnnprobe.records.ledger import CODES, COLUMNS, EXTRA, Ledger, Slot
from cnnprobe.records.ranks import keep_step
from cnnprobe.records.statistics import BUCKETS, COUNT, INF, L2, MAX, MEAN, MIN, NAN, STD, fold
from cnnprobe.records.trace import Histogram
from cnnprobe.stats.sheet import SLOT, Taken
from cnnprobe.stats.table import WRITTEN
from cnnprobe.stats.transfer import Sent

_SCALED = [MEAN, STD, MIN, MAX, L2]
PARAMETER, ACTIVATION, GRADIENT, PARAMETERS_GRADIENT = range(
    4
)  # indices into CODES: what makes the next one not finite comes first


@dataclass(slots=True, kw_only=True)
class StepDraft:
    """One step. `taken` is None where it was not observed."""

    step: int
    curves: dict[str, float]
    losses: Sequence[Sent] = ()
    taken: Taken | None = None
    changes: Changes | None = None
    norms: Sent | None = None  # of the changes, where they are on a device
    # by which the loss, and so every gradient of an activation, was multiplied
    scale: Sent | None = None
    scaled: tuple[int, int] = (0, 0)  # rows of parameters' gradients that are scaled too
    skipped: bool = False  # no optimizer has used the gradients
    dead: dict[int, int] = field(
        default_factory=dict
    )  # by slot, how many channels were zero throughout
    seen: NonFinite | None = None  # what a hook saw at once
    rank: RankDraft | None = None  # of several processes: what was read of this one

    def is_there(self) -> bool:
        """Whether writing it down would not wait."""
        parts = [*self.losses, *(part for part in (self.norms, self.scale) if part is not None)]
        return all(part.is_there() for part in parts) and (
            self.taken is None or self.taken.is_there()
        )


def enter(draft: StepDraft, ledger: Ledger) -> None:
    """Write a step into the ledger; waits for what is not there yet."""
    step = draft.step
    loss = _mean([float(sent.read()) for sent in draft.losses])
    if loss is not None:
        ledger.put("loss", step, loss)
    for name, value in draft.curves.items():
        ledger.put(name, step, value)
    scale = None if draft.scale is None else float(draft.scale.read())
    if scale is not None:
        ledger.put("loss scale", step, scale)
    _enter_rank(draft, ledger, scale)
    if draft.taken is None:
        if loss is not None and not math.isfinite(loss) and ledger.nonfinite is None:
            ledger.nonfinite = _of_loss(draft, ledger, loss)
    else:
        _enter_rows(draft, ledger, draft.taken, loss=loss, scale=scale)


def _enter_rows(
    draft: StepDraft, ledger: Ledger, taken: Taken, *, loss: float | None, scale: float | None
) -> None:
    values, counts = taken.read()
    rows = np.full((len(values), len(COLUMNS)), np.nan)
    rows[:, :EXTRA] = values[:, :WRITTEN]
    slots = values[:, SLOT].astype(np.int64)
    codes = ledger.codes()[slots]
    if scale:
        _unscale(rows, codes, scale, draft.scaled)
    if draft.dead:
        numbers = np.full(len(ledger.slots), np.nan)
        numbers[list(draft.dead)] = list(draft.dead.values())
        rows[:, EXTRA] = numbers[slots]
    usable = values[:, WRITTEN] == 1
    if ledger.nonfinite is None:
        ledger.nonfinite = _first_odd(draft, ledger, (rows, slots, codes, usable), loss)
    _put_norm(draft, ledger, rows[usable & (codes == PARAMETERS_GRADIENT)])
    slots, kept = slots[usable], rows[usable]
    if draft.changes is not None and len(draft.changes.slots):
        more = _updates(draft.changes, rows, draft.norms)
        ledger.put(
            "update ratio",
            draft.step,
            _total(more[:, L2]) / (_total(rows[draft.changes.rows, L2]) or math.nan),
        )
        slots, kept = np.concatenate([slots, draft.changes.slots]), np.concatenate([kept, more])
    ledger.add(
        draft.step,
        slots,
        kept,
        None if counts is None else _histograms(values[:, SLOT].astype(np.int64), counts),
    )


def _enter_rank(draft: StepDraft, ledger: Ledger, scale: float | None) -> None:
    rank, scaled = draft.rank, draft.scaled != (0, 0)
    if rank is None:
        return
    keep_step(ledger.rank_steps, rank.read(scale, scaled=scaled))
    of_loss = rank.read_loss_scale(scale)
    ledger.loss_scale = ledger.loss_scale if of_loss is None else of_loss


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _total(norms: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(norms).sum()))


def _unscale(
    rows: NDArray[np.float64], codes: NDArray[np.int8], scale: float, also: tuple[int, int]
) -> None:
    """Gradients as they would be without the loss scale; those of parameters were unscaled by the
    GradScaler before the step.
    """
    within = np.zeros(len(rows), dtype=bool)
    within[also[0] : also[1]] = True
    rows[np.ix_((codes == GRADIENT) | ((codes == PARAMETERS_GRADIENT) & within), _SCALED)] /= scale


def _updates(
    changes: Changes, rows: NDArray[np.float64], norms: Sent | None
) -> NDArray[np.float64]:
    more = np.full((len(changes.slots), len(COLUMNS)), np.nan)
    more[:, L2] = changes.norms if norms is None else norms.read().double().numpy()
    before = rows[changes.rows, L2]
    with np.errstate(divide="ignore", invalid="ignore"):
        more[:, EXTRA] = np.where(before > 0, more[:, L2] / before, np.nan)
    return more


def _put_norm(draft: StepDraft, ledger: Ledger, rows: NDArray[np.float64]) -> None:
    if len(rows) and not draft.skipped:
        ledger.put(
            "gradient norm",
            draft.step,
            math.nan if rows[:, [NAN, INF]].any() else _total(rows[:, L2]),
        )


def _histograms(slots: NDArray[np.int64], counts: NDArray[np.int64]) -> dict[int, Histogram]:
    summed: dict[int, NDArray[np.int64]] = {}
    for slot, row in zip(slots.tolist(), counts, strict=True):
        summed[slot] = summed[slot] + row if slot in summed else row
    return {
        slot: fold(row[256 : 256 + BUCKETS].tolist(), row[:BUCKETS].tolist())
        for slot, row in summed.items()
        if row.any()
    }


# -- the first value that is not finite ------------------------------------------------------------


def _before(ledger: Ledger) -> int | None:
    return ledger.steps[-1] if ledger.steps else None


def _of_loss(draft: StepDraft, ledger: Ledger, loss: float) -> NonFinite:
    return NonFinite(
        step=draft.step,
        what="loss",
        fqn="",
        nan=int(math.isnan(loss)),
        inf=int(math.isinf(loss)),
        count=1,
        seen_before=_before(ledger),
    )


_Measured = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int8], NDArray[np.bool_]]


def _first_odd(
    draft: StepDraft, ledger: Ledger, measured: _Measured, loss: float | None
) -> NonFinite | None:
    rows, slots, codes, usable = measured
    odd = usable & (rows[:, [NAN, INF]] > 0).any(1)
    for code in (PARAMETER, ACTIVATION):
        found = np.flatnonzero(odd & (codes == code))
        if len(found):
            seen = draft.seen if code == ACTIVATION else None
            return seen or event(
                draft.step, ledger.slots[slots[found[0]]], rows[found[0]], _before(ledger)
            )
    if loss is not None and not math.isfinite(loss):
        return _of_loss(draft, ledger, loss)
    found = np.flatnonzero(odd & ((codes == GRADIENT) | (codes == PARAMETERS_GRADIENT)))
    if draft.skipped or not (odd & (codes == PARAMETERS_GRADIENT)).any():
        return None  # an overflow that the GradScaler has dealt with, or one that ended at a ReLU
    return event(draft.step, ledger.slots[slots[found[0]]], rows[found[0]], _before(ledger))


def event(step: int, slot: Slot, row: NDArray[np.float64], before: int | None) -> NonFinite:
    """A row that is not finite as an event, without what the call was given."""
    return NonFinite(
        step=step, what=slot.what, fqn=slot.fqn, call=slot.call, kind=slot.kind,
        nan=int(row[NAN]), inf=int(row[INF]), count=int(row[COUNT]), seen_before=before,
    )  # fmt: skip


assert CODES[PARAMETERS_GRADIENT] == ("gradient", True)  # noqa: S101 - told by position


def sent(tensors: Sequence[Tensor]) -> tuple[Sent, ...]:
    """Each on its way to the CPU."""
    return tuple(Sent(tensor) for tensor in tensors)
