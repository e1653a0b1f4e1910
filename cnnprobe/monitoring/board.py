"""Curves and histograms for TensorBoard, by torch's own writer."""

import os
from typing import TYPE_CHECKING, Any

from cnnprobe.errors import TargetError
from cnnprobe.records.ledger import EXTRA
from cnnprobe.records.statistics import COUNT, INF, L2, MAX, MEAN, MIN, NAN, STD, ZEROS
from cnnprobe.records.trace import Histogram

if TYPE_CHECKING:
    from cnnprobe.monitoring.watch import Watch

_SHOWN = {
    "activation": ((MEAN, "mean"), (STD, "std"), (ZEROS, "zeros")),
    "gradient": ((L2, "norm"),),
    "parameter": ((L2, "norm"),),
    "update": ((EXTRA, "ratio"),),
}


class Board:
    """Writes every observed step with a SummaryWriter: one that is given, or one of its own for a
    folder.
    """

    def __init__(self, target: Any) -> None:
        self._is_own = isinstance(target, str | os.PathLike)
        self._writer = _writer(target) if self._is_own else target

    def wrote(self, watch: "Watch", step: int, *, observed: bool) -> None:
        """The curves' points of this step; the layers' where it was observed."""
        ledger = watch.ledger
        for name, (steps, values) in ledger.curves.items():
            if steps[-1] == step:
                self._writer.add_scalar(f"training/{name}", values[-1], step)
        if not observed:
            return
        rows = ledger.rows[-1]
        for slot, row in zip(ledger.slots, rows, strict=False):
            named = f"{slot.fqn or 'model'}{slot.output}" + (
                f" #{slot.call + 1}" if slot.call else ""
            )
            for column, name in _SHOWN[slot.what]:
                if row[column] == row[column]:
                    number = (
                        row[column] / row[COUNT] if name == "zeros" and row[COUNT] else row[column]
                    )
                    self._writer.add_scalar(f"{slot.what} {name}/{named}", float(number), step)
            spread = (
                ledger.histograms[-1].get(ledger.slots.index(slot))
                if ledger.histograms[-1]
                else None
            )
            if spread is not None and (spread.positive or spread.negative):
                self._writer.add_histogram_raw(
                    f"{slot.what}/{named}", **raw(spread, row), global_step=step
                )

    def close(self, watch: "Watch") -> None:  # noqa: ARG002
        """Everything is on disk."""
        self._writer.flush()
        if self._is_own:
            self._writer.close()


def raw(histogram: Histogram, row: Any) -> dict[str, Any]:
    """What `SummaryWriter.add_histogram_raw` takes: the upper limits of the buckets, negative ones
    first, and how many values each has; zeros between.

    >>> raw(Histogram(lowest=0, negative=(0, 1), positive=(2, 0)), [4, 0.0, 1.0, -3.0, 1.5, 1.0, 0.0, 0.0, 3.0])["bucket_limits"]
    [-2.0, -1.0, 0.0, 1.0, 2.0, 4.0]
    """  # noqa: E501
    n, low = len(histogram.positive), histogram.lowest
    limits = (
        [-(2.0 ** (low + k)) for k in range(n - 1, -1, -1)]
        + [0.0, 2.0**low]
        + [2.0 ** (low + k + 1) for k in range(n)]
    )
    counts = [*reversed(histogram.negative), int(row[ZEROS]), 0, *histogram.positive]
    finite = int(row[COUNT] - row[NAN] - row[INF])
    return {
        "min": float(row[MIN]), "max": float(row[MAX]), "num": finite,
        "sum": float(row[MEAN]) * finite, "sum_squares": float(row[L2]) ** 2,
        "bucket_limits": limits, "bucket_counts": counts,
    }  # fmt: skip


def _writer(folder: Any) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        fix = "pip install tensorboard, or give log= to write JSON lines"
        raise TargetError(
            "TensorBoard's writer cannot be imported", where="monitor(tensorboard=...)", fix=fix
        ) from error
    return SummaryWriter(os.fspath(folder))
