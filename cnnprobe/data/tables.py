"""Rows of tables and windows of series: those that stand in both splits, and columns that give the
target away.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from cnnprobe.data.columns import BatchColumn
from cnnprobe.data.facts import Leak
from cnnprobe.data.spots import SamePicture, Spotted

ROWS = 4096  # that are kept
WINDOWS = 1024  # that are compared
FEWEST = 32  # rows, below which nothing is said
OWN = 0.5  # of the rows have a value of their own, in CONTINUOUS columns: rows of classes alone are
CONTINUOUS = 3  # equal by chance
STEPS = 4  # of a series that are compared as one
LEAST_STEPS = 16  # of a window
SHARED = 0.5  # of the steps of a window that stand in one of the other split
PAIRED = 0.25  # of the steps that stand in one and the same
TRIED = 32  # windows that have the same few steps
NAMED = 8
EACH = 5  # rows of each class, at least
_PRIME = 0x9E3779B97F4A7C15 - 2**64  # odd, with bits all over


class RowTally:
    """The first rows of features, with their targets."""

    def __init__(self) -> None:
        self.path = ""
        self.spots: list[Spotted] = []
        self._rows: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, columns: Mapping[str, BatchColumn], spots: Sequence[Spotted]) -> None:
        """Take in a batch: the first part of floats, (N, F) or (N, T, F), and its targets."""
        floats = [
            (path, column.values) for path, column in columns.items()
            if isinstance(column.values, Tensor) and column.values.is_floating_point()
            and column.values.dim() in (2, 3)
        ]  # fmt: skip
        if not floats or len(self.spots) >= ROWS or len(floats[0][1]) != len(spots):
            return
        self.path, rows = floats[0]
        if rows.shape[1] < 2 or (self._rows and rows.shape[1:] != self._rows[0].shape[1:]):
            return
        self._rows.append(rows.detach().cpu().float())
        self.spots += spots
        for path, column in columns.items():
            given = column.values
            if path != self.path and isinstance(given, Tensor) and given.numel() == len(rows):
                self._targets.append(given.detach().cpu().double().reshape(-1))
                break

    @property
    def rows(self) -> Tensor:
        """Shape (N, F) or (N, T, F); empty where there are none."""
        return torch.cat(self._rows) if self._rows else torch.empty(0, 2)

    def find_given_away(self) -> tuple[int, ...]:
        """The columns that are the target: one value for each class, or an affine function of it;
        none where there are no others beside them.
        """
        rows = self.rows
        if rows.dim() != 2 or len(rows) < FEWEST:
            return ()
        if sum(map(len, self._targets)) != len(rows):
            return ()
        target = torch.cat(self._targets)
        found = [k for k in range(rows.shape[1]) if _tells(rows[:, k].double(), target)]
        return tuple(found) if len(found) < rows.shape[1] else ()


def _tells(column: Tensor, target: Tensor) -> bool:
    """Whether each value of a column goes with one of the target, and each of these with one of its
    own, in one order.
    """
    if not bool(column.isfinite().all() & target.isfinite().all()):
        return False
    values, counts = torch.unique(target, return_counts=True)
    if len(values) < 2 or len(torch.unique(column)) != len(values):
        return False
    if len(values) <= len(target) // EACH:  # classes
        if int(counts.min()) < EACH:
            return False
        pairs = torch.unique(torch.stack([target, column], dim=1), dim=0)
        turns = [b > a for a, b in pairwise(pairs[:, 1].tolist())]
        return len(pairs) == len(values) and (all(turns) or not any(turns))
    moved = torch.stack([column - column.mean(), target - target.mean()])
    across = (moved[0] * moved[1]).sum() / moved[0].norm() / moved[1].norm()
    return bool(across.abs() > 1 - 1e-6)


# ---------------------------------------------------------------- in both splits


def find_by_row(training: RowTally, validation: RowTally) -> Leak | None:
    """Rows of the validation that are rows of the training, and windows that overlap with its
    windows.
    """
    ours, theirs = training.rows, validation.rows
    if min(len(ours), len(theirs)) < FEWEST or ours.shape[1:] != theirs.shape[1:]:
        return None
    return _find_equal(training, ours, validation, theirs) or _find_overlap(
        training, ours, validation, theirs
    )


def _find_equal(
    training: RowTally, ours: Tensor, validation: RowTally, theirs: Tensor
) -> Leak | None:
    if not _is_continuous(ours):
        return None
    known = {row.numpy().tobytes(): i for i, row in enumerate(ours)}
    twins = [(known.get(row.numpy().tobytes()), k) for k, row in enumerate(theirs)]
    pairs = [(i, k) for i, k in twins if i is not None]
    return _make(training, validation, pairs, len(theirs), "row") if pairs else None


def _is_continuous(rows: Tensor) -> bool:
    """Whether several columns tell most rows apart."""
    flat = torch.unique(rows.flatten(1), dim=0)
    own = sum(
        len(torch.unique(flat[:, k])) > OWN * len(flat) for k in range(min(flat.shape[1], 64))
    )
    return own >= CONTINUOUS


def _find_overlap(
    training: RowTally, ours: Tensor, validation: RowTally, theirs: Tensor
) -> Leak | None:
    if ours.shape[1] < LEAST_STEPS:
        return None
    ours, theirs = ours[:WINDOWS], theirs[:WINDOWS]
    known, _ = _number_steps(ours)
    asked, moves = _number_steps(theirs)
    shared = torch.isin(asked, torch.unique(known)) & moves
    found = (shared.sum(1) > SHARED * asked.shape[1]).nonzero().flatten().tolist()
    matches = ((_find_window(ours, known, theirs[k], asked[k], shared[k]), k) for k in found)
    pairs = [(i, k) for i, k in matches if i is not None]
    return _make(training, validation, pairs, len(theirs), "window") if pairs else None


def _find_window(
    ours: Tensor, known: Tensor, window: Tensor, asked: Tensor, shared: Tensor
) -> int | None:
    """The window of the training that this one continues: all that both have of the series is
    equal, and not a few steps alone, as images of few levels share them.
    """
    places = shared.nonzero().flatten()
    q = int(places[len(places) // 2])
    for i, p in (known == asked[q]).nonzero()[:TRIED].tolist():
        length = len(window) - abs(p - q)
        mine, other = ours[i][max(p - q, 0) :][:length], window[max(q - p, 0) :][:length]
        if length > PAIRED * len(window) and torch.equal(mine, other):
            return int(i)
    return None


def _number_steps(windows: Tensor) -> tuple[Tensor, Tensor]:
    """A number of each STEPS steps in a row that only equal ones share, (N, T - STEPS + 1), and
    whether they change.
    """
    given = windows if windows.dim() == 3 else windows[..., None]
    runs = given.contiguous().unfold(1, STEPS, 1).flatten(2).contiguous()
    bits = runs.view(torch.int32).long()
    numbers = torch.zeros_like(bits[..., 0])
    for k in range(bits.shape[-1]):
        numbers = (numbers ^ bits[..., k]) * _PRIME
        numbers = numbers ^ (numbers >> 29)
    return numbers, runs.amax(-1) > runs.amin(-1)


def _make(
    training: RowTally, validation: RowTally, pairs: Sequence[tuple[int, int]], among: int, by: str
) -> Leak:
    named = [
        SamePicture(first=training.spots[i], second=validation.spots[k]) for i, k in pairs[:NAMED]
    ]
    return Leak(pairs=tuple(named), count=len(pairs), among=among, by=by, share=len(pairs) / among)
