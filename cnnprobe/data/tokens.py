"""Tokens beside their vocabulary: how many of them stand for what it has not."""

import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cnnprobe.data.clues import Tokens
from cnnprobe.data.columns import BatchColumn
from cnnprobe.data.datasets import unwrap

MOST = 100_000  # distinct tokens that are counted
HELD = 200  # objects among which a vocabulary is looked for
_UNKNOWN = ("<unk>", "[UNK]", "<UNK>", "UNK", "unk", "<oov>", "<OOV>", "[OOV]", "|UNK|")
_SPECIAL = "<[|"  # a token that begins so, and ends so, stands for no word
_ENDS = ">]|"
Vocabulary = tuple[str, int, frozenset[int]]  # the unknown token, its number, the special ones


class TokenTally:
    """The tokens of one part of the batches."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._counts: Counter[int] = Counter()

    def add(self, columns: Mapping[str, BatchColumn]) -> None:
        """Take in the tokens of a batch, (N, L), or one row of each sample."""
        column = columns.get(self.path)
        rows = column.values if column is not None else []
        for row in [rows] if isinstance(rows, Tensor) else rows:
            if not isinstance(row, Tensor) or row.dtype.is_floating_point:
                continue
            found, counts = torch.unique(row, return_counts=True)
            if len(self._counts) < MOST:
                self._counts.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))

    def describe(self, vocabulary: Vocabulary) -> Tokens | None:
        """What was met, beside the vocabulary; None where the tokens are not of it."""
        name, unknown, special = vocabulary
        words = {k: n for k, n in self._counts.items() if k == unknown or k not in special}
        if min(words, default=-1) < 0:
            return None  # labels with what is left out
        return Tokens(
            path=self.path, unknown=unknown, name=name, count=sum(words.values()),
            unknowns=words.get(unknown, 0),
        )  # fmt: skip


def is_tokens(column: BatchColumn) -> bool:
    """Whether a part holds a row of whole numbers a sample."""
    first = column.first
    whole = isinstance(first, Tensor) and first.dtype in (torch.int64, torch.int32)
    return bool(whole and first.dim() == 1 and len(first) > 1)


def hash_texts(columns: Iterable[BatchColumn], batch: int) -> dict[tuple[int, int], int]:
    """A number of the text beside each sample of a batch, by batch and position: tokens without the
    zeros that pad them, and words; names of files are none.
    """
    texts: dict[tuple[int, int], list[Any]] = {}
    for column in columns:
        if is_tokens(column):
            for i, row in enumerate(column.values):
                if isinstance(row, Tensor):
                    numbers = row.tolist()
                    used = max((k + 1 for k, n in enumerate(numbers) if n), default=0)
                    texts.setdefault((batch, i), []).append(tuple(numbers[:used]))
        elif isinstance(column.first, str):
            for i, text in enumerate(column.values):
                if isinstance(text, str) and " " in text.strip() and "/" not in text:
                    texts.setdefault((batch, i), []).append(text)
    return {place: hash(tuple(each)) for place, each in texts.items()}


def find_vocabulary(given: Any) -> Vocabulary | None:
    """The vocabulary that a loader or its data set reaches by attributes, or by the names in its
    methods: a dict of words with one for the unknown, or a tokenizer; None where there is none.
    """
    for held in _list_held(given):
        found = _read_mapping(held) if isinstance(held, Mapping) else _read_tokenizer(held)
        if found is not None:
            return found
    return None


def _list_held(given: Any) -> Iterator[Any]:
    """What the data sets and the collate hold, and what their functions name."""
    subjects = list(unwrap(given.dataset if isinstance(given, DataLoader) else given))
    subjects.append(getattr(given, "collate_fn", None))
    for subject in subjects[:HELD]:
        yield from (getattr(subject, "__dict__", None) or {}).values()
        functions = [subject, *vars(type(subject)).values()]
        for function in functions:
            if isinstance(function, types.FunctionType):
                names = _list_names(function.__code__)
                yield from (function.__globals__.get(name) for name in names)
                cells = function.__closure__ or ()
                yield from (cell.cell_contents for cell in cells if cell != types.CellType())


def _list_names(code: types.CodeType) -> Iterator[str]:
    """The names in a function, and in the comprehensions in it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _list_names(inner)


def _read_mapping(held: Mapping[Any, Any]) -> Vocabulary | None:
    name = next((each for each in _UNKNOWN if each in held), None)
    if name is None or type(held[name]) is not int:
        return None
    numbered = [(k, v) for k, v in held.items() if isinstance(k, str) and isinstance(v, int)]
    special = {v for k, v in numbered if len(k) > 2 and k[0] in _SPECIAL and k[-1] in _ENDS}
    return name, held[name], frozenset(special | {held[name]})


def _read_tokenizer(held: Any) -> Vocabulary | None:
    """Of a Hugging Face tokenizer, or of an object with a vocabulary of its own."""
    unknown = getattr(held, "unk_token_id", None)
    if type(unknown) is int:
        special = getattr(held, "all_special_ids", None) or [unknown]
        return str(getattr(held, "unk_token", "<unk>")), unknown, frozenset(special)
    own = getattr(held, "__dict__", None) or {}
    inner = (
        own.get(name) for name in ("stoi", "vocab", "word2idx", "token_to_id", "word_to_index")
    )
    mappings = (each for each in inner if isinstance(each, Mapping))
    return next((found for each in mappings if (found := _read_mapping(each)) is not None), None)
