"""Hashes of tensors that are taken again and again: equal on two ranks where the bits are equal.

A hash is the sum of the tensor's words, each times a weight of its position, modulo 2**64, folded
to 32 bits. A large tensor is first summed down to a row of words. One changed bit always shows; of
two tensors that differ otherwise, one pair in four billion has the same hash.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnprobe.stats.transfer import Sent

_ROW = 1024  # words of eight bytes to which a large tensor is summed down
_LARGE = 2**16  # bytes
_CHUNK = 2**22  # elements that a device looks at in one go
_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15  # the weights are its odd multiples


class Fingerprints:
    """The hashes of the same tensors at one moment after another."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._pointers: list[int] = []
        self._small: list[NDArray[np.uint32]] = []  # their words, where they lie
        self._starts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._small_places: list[int] = []
        self._large: list[tuple[int, NDArray[np.uint64]]] = []
        self._others: list[int] = []
        self._weights: NDArray[np.uint64] = make_weights(_ROW)

    def take(self) -> "TakenPrint":
        """The hashes as of now; those of a device are on their way."""
        pointers = [tensor.data_ptr() for tensor in self._tensors]
        if pointers != self._pointers:
            self._look(pointers)
        hashes = [0] * len(pointers)
        if self._small:
            words = np.concatenate(self._small)
            sums = np.add.reduceat(words * self._weights[: len(words)], self._starts)
            for place, total in zip(self._small_places, sums.tolist(), strict=True):
                hashes[place] = _fold(total)
        for place, rows in self._large:
            row = np.add.reduce(rows, axis=0)
            hashes[place] ^= _fold(int(np.add.reduce(row * self._weights[:_ROW])))
        sent: dict[int, Sent] = {}
        for place in self._others:
            tensor = self._tensors[place].detach()
            if tensor.device.type == "cpu":
                hashes[place] = hash_bytes(tensor)
            elif not tensor.is_meta:
                sent[place] = Sent(sum_on_device(tensor))
        return TakenPrint(hashes, sent)

    def _look(self, pointers: list[int]) -> None:
        """Where each tensor lies in memory."""
        self._pointers = pointers
        self._small, self._small_places, self._large, self._others = [], [], [], []
        for place, tensor in enumerate(self._tensors):
            words = _view_words(tensor.detach())
            if words is None:
                self._others.append(place)
                continue
            if words.nbytes >= _LARGE:
                whole = len(words) // (2 * _ROW) * (2 * _ROW)
                self._large.append((place, words[:whole].view(np.uint64).reshape(-1, _ROW)))
                words = words[whole:]
            if len(words):
                self._small.append(words)
                self._small_places.append(place)
        lengths = [len(words) for words in self._small]
        self._starts = np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64)
        self._weights = make_weights(max(_ROW, sum(lengths)))


class TakenPrint:
    """Hashes, of which some may be on their way from a device."""

    def __init__(self, hashes: list[int], sent: dict[int, Sent]) -> None:
        self._hashes = hashes
        self._sent = sent

    def read(self) -> str:
        """Eight hexadecimal digits for each tensor."""
        for place, each in self._sent.items():
            self._hashes[place] = _fold(int(each.read()) % 2**64)
        self._sent = {}
        return "".join(f"{each:08x}" for each in self._hashes)


def make_weights(count: int) -> NDArray[np.uint64]:
    """The odd weight of each position.

    >>> make_weights(2).tolist() == [1, 0x9E3779B97F4A7C15]
    True
    """
    return (np.arange(count, dtype=np.uint64) * np.uint64(_GOLDEN)) | np.uint64(1)


def _fold(total: int) -> int:
    return (total ^ (total >> 32)) & _MASK


def _view_words(tensor: Tensor) -> NDArray[np.uint32] | None:
    """The memory of a dense tensor on the CPU as words of four bytes; None where that cannot be."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
        return None
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    if not tensor.is_contiguous() or tensor.nbytes % 4 or not tensor.nbytes or tensor.is_neg():
        return None
    words: NDArray[np.uint32] = tensor.reshape(-1).view(torch.uint8).numpy().view(np.uint32)
    return words


def _read_bytes(tensor: Tensor) -> bytes:
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    flat = tensor.resolve_neg().resolve_conj().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def sum_on_device(tensor: Tensor) -> Tensor:
    """The sum of the words of a tensor, each times a weight of its position, where it is; int64."""
    flat = tensor.contiguous().reshape(-1)
    words = flat.view(torch.int32) if flat.element_size() % 4 == 0 else flat.view(torch.uint8)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK].to(torch.int64)
        places = torch.arange(start, start + len(part), device=tensor.device)
        total += (part * (places * 2 + 1)).sum()
    return total


def hash_batch(tensors: Sequence[Tensor]) -> "TakenPrint":
    """One hash of a batch: of values spread evenly over each of its tensors."""
    parts = [_spread(tensor.detach()) for tensor in tensors]
    if any(part.device.type != "cpu" for part in parts):
        return Fingerprints(parts).take()
    return TakenPrint([hash_bytes(part) for part in parts], {})


def hash_bytes(tensor: Tensor) -> int:
    """A hash of a tensor on the CPU that is taken once."""
    return zlib.crc32(_read_bytes(tensor))


def _spread(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat[:: max(1, flat.numel() // 4096) | 1].contiguous()
