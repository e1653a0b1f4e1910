"""Rows of tokens beside one another: their padding, their mask, and the tokens to be predicted."""

import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from cnnprobe.data.clues import Texts
from cnnprobe.data.columns import BatchColumn
from cnnprobe.data.tokens import is_tokens

FEWEST = 2  # rows of a batch that end in two equal tokens or more, before these are padding
WORDS = 3  # distinct numbers of tokens: what has fewer is a mask
_TARGETS = re.compile(r"label|target|\[\d+\]$", re.IGNORECASE)
_MASK = re.compile(r"(attention|pad(ding)?|valid|token)_?mask", re.IGNORECASE)


class TextTally:
    """The first rows of tokens of each batch, with those of equal shape beside them."""

    def __init__(self) -> None:
        self._path = self._targets = self._mask = ""
        self._pads: Counter[int] = Counter()
        self._fills: Counter[int] = Counter()  # targets at the padding
        self._counts: Counter[str] = Counter()

    def add(self, columns: Mapping[str, BatchColumn]) -> None:
        """Take in the tokens of a batch."""
        rows = {
            path: column.values for path, column in columns.items()
            if isinstance(column.values, Tensor) and column.values.dim() == 2
            and not column.values.is_floating_point()
        }  # fmt: skip
        texts = [path for path, each in rows.items() if _is_text(columns[path], each)]
        if not texts:
            return
        self._path, *others = texts
        ids = rows[self._path]
        self._counts["batches"] += 1
        pad, places = find_padding(ids) or (None, torch.zeros_like(ids, dtype=torch.bool))
        if pad is not None:
            self._pads[pad] += 1
            self._counts["padded"] += int(places.sum())
            self._counts["tokens"] += places.numel()
        for path in others:
            if rows[path].shape == ids.shape and _TARGETS.search(path):
                self._targets = path
                self._counts["equal"] += torch.equal(rows[path], ids)
                self._fills.update(rows[path][places].tolist())
                break
        for path, mask in rows.items():
            if _MASK.search(path) and mask.shape == ids.shape:
                self._mask = path
                self._counts["open"] += int((mask[places] == 1).sum())

    def describe(self) -> Texts | None:
        """What was met, as plain data; None where there are no tokens."""
        counts = self._counts
        if not counts["batches"]:
            return None
        known = len(self._pads) == 1 and counts["tokens"]
        same = len(self._fills) == 1 and known
        return Texts(
            path=self._path,
            pad=next(iter(self._pads)) if known else None,
            padded=counts["padded"] / counts["tokens"] if known else 0.0,
            targets=self._targets,
            fill=next(iter(self._fills)) if same else None,
            equal=counts["equal"] == counts["batches"],
            mask=self._mask,
            unmasked=bool(known) and counts["open"] == counts["padded"],
        )


def _is_text(column: BatchColumn, rows: Tensor) -> bool:
    return is_tokens(column) and not _MASK.search(column.path) and len(torch.unique(rows)) >= WORDS


def find_padding(rows: Tensor) -> tuple[int, Tensor] | None:
    """The number that fills the ends of rows, shape (N, L), and where it does so; None where rows
    end in other numbers, all in as many, or hold it before their end too.

    >>> pad, places = find_padding(torch.tensor([[5, 7, 0, 0], [6, 0, 0, 0], [4, 5, 6, 7]]))
    >>> pad, places.sum(1).tolist()
    (0, [2, 3, 0])
    """
    pad = int(rows[:, -1].mode().values)
    here = rows == pad
    tail = here.long().flip(1).cumprod(1).flip(1).bool()
    lengths = tail.sum(1)
    if bool((here & ~tail).any()) or int((lengths > 1).sum()) < FEWEST:
        return None
    return (pad, tail) if len(torch.unique(lengths)) > 1 else None
