"""Hashes of tensors that are taken again and again: equal on two ranks where the bits are equal.

A hash is the sum of the tensor's words of eight bytes in the order of memory, each times an odd
weight of its place, modulo 2**64, folded to 32 bits. Of two tensors that differ, about one pair in
four billion has the same hash.
"""

import zlib
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnprobe.stats.native import load_kernel
from cnnprobe.stats.transfer import Sent

_ROW = 1024  # words: larger memory is summed by rows and by columns, as in kernel/hash.h
_CHUNK = 2**22  # elements that a device looks at in one go
_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15  # the weights are its multiples: odd of a column, even of a row
_STRETCHES = 256  # of a batch that are read
_STRETCH = 64  # bytes of each: a line of the cache

_Seen = tuple[int, int, int]  # place, address, number of elements


class Fingerprints:
    """The hashes of the same tensors at one moment after another."""

    def __init__(self) -> None:
        self._seen: list[_Seen] = []
        self._places: list[int] = []  # of the tensors whose memory can be read where it lies
        self._memory: list[NDArray[np.uint8]] = []  # theirs
        self._jobs: NDArray[np.int64] = np.zeros((0, 3), dtype=np.int64)  # the same for the kernel
        self._others: list[int] = []

    def take(self, tensors: Sequence[Tensor], known: Sequence[int | None] = ()) -> "TakenPrint":
        """The hashes as of now; those of a device are on their way.

        Args:
            tensors: in the same order each time.
            known: of each the sum of its words, where the kernel has taken it already.
        """
        hashes, seen = [0] * len(tensors), list[_Seen]()
        for place, (tensor, total) in enumerate(zip_longest(tensors, known)):
            if total is None:
                pointer = tensor.data_ptr() if tensor.layout is torch.strided else 0
                seen.append((place, pointer, tensor.numel()))
            else:
                hashes[place] = _fold(total)
        if seen != self._seen:
            self._look(tensors, seen)
        for place, total in zip(self._places, self._sum_words(), strict=True):
            hashes[place] = _fold(total)
        sent: dict[int, Sent] = {}
        for place in self._others:
            tensor = tensors[place].detach()
            if tensor.device.type == "cpu":
                hashes[place] = hash_bytes(tensor)
            elif not tensor.is_meta:
                sent[place] = Sent(sum_on_device(tensor))
        return TakenPrint(hashes, sent)

    def _look(self, tensors: Sequence[Tensor], seen: list[_Seen]) -> None:
        """Where each tensor lies in memory."""
        self._seen, self._places, self._memory, self._others = seen, [], [], []
        for place, _, _ in seen:
            memory = _view_memory(tensors[place].detach())
            if memory is None:
                self._others.append(place)
            else:
                self._places.append(place)
                self._memory.append(memory)
        jobs = [(memory.ctypes.data, memory.nbytes, 0) for memory in self._memory]
        self._jobs = np.array(jobs, dtype=np.int64).reshape(-1, 3)

    def _sum_words(self) -> list[int]:
        kernel = load_kernel()
        if kernel is None:
            return [sum_words(memory) for memory in self._memory]
        kernel.sheets.hash_each(self._jobs.ctypes.data, len(self._jobs))
        sums: list[int] = self._jobs[:, 2].view(np.uint64).tolist()
        return sums


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
        return np.array(self._hashes, dtype=">u4").tobytes().hex()


def sum_words(memory: NDArray[np.uint8]) -> int:
    """The sum of the words of eight bytes, each times the weight of its place, without the kernel;
    zeros follow the last byte.

    >>> sum_words(np.array([3, 0, 0, 0, 0, 0, 0, 0, 2], dtype=np.uint8)) == 3 + 2 * _GOLDEN % 2**64
    True
    """
    whole = memory.nbytes // (8 * _ROW) * (8 * _ROW)
    rest = np.zeros(8 * _ROW, dtype=np.uint8)
    rest[: memory.nbytes - whole] = memory[whole:]
    rows, last = memory[:whole].view(np.uint64).reshape(-1, _ROW), rest.view(np.uint64)
    columns = np.add.reduce(rows, axis=0) + last
    of_rows = np.append(np.add.reduce(rows, axis=1), np.add.reduce(last))
    by_column = (np.arange(_ROW, dtype=np.uint64) * np.uint64(_GOLDEN)) | np.uint64(1)
    by_row = np.arange(len(of_rows), dtype=np.uint64) * np.uint64(2 * _GOLDEN % 2**64)
    weighed = np.concatenate([columns * by_column, of_rows * by_row])
    return int(np.add.reduce(weighed))


def _fold(total: int) -> int:
    return (total ^ (total >> 32)) & _MASK


def _view_memory(tensor: Tensor) -> NDArray[np.uint8] | None:
    """The memory of a dense tensor on the CPU; None where it cannot be read as it lies."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
        return None
    flat = _flatten(tensor)
    if not flat.is_contiguous() or not flat.nbytes or flat.is_neg() or flat.is_conj():
        return None
    memory: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return memory


def _flatten(tensor: Tensor) -> Tensor:
    """The elements in the order of memory where they are dense; else as the shape has them."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(-1) if tensor.is_contiguous() else tensor


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


def hash_batch(tensors: Sequence[Tensor]) -> TakenPrint:
    """One hash of a batch: of stretches of memory spread evenly over each of its tensors."""
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return Fingerprints().take([_spread(tensor.detach()) for tensor in tensors])
    return TakenPrint([_hash_stretches(tensor.detach()) for tensor in tensors], {})


def _hash_stretches(tensor: Tensor) -> int:
    memory = _view_memory(tensor)
    if memory is None:
        return hash_bytes(_spread(tensor))
    step = memory.nbytes // _STRETCHES | 1  # odd: they fall on all columns of an image
    whole = memory.nbytes // step * step
    spread = memory[:whole].reshape(-1, step)[:, :_STRETCH] if step > _STRETCH else memory
    return zlib.crc32(spread.tobytes())


def hash_bytes(tensor: Tensor) -> int:
    """A hash of a tensor on the CPU that is taken once."""
    return zlib.crc32(_read_bytes(tensor))


def _spread(tensor: Tensor) -> Tensor:
    """Values of a tensor on a device, or of one whose memory cannot be read as it lies."""
    flat = tensor.reshape(-1)
    return flat[:: max(1, flat.numel() // (_STRETCHES * _STRETCH // 4)) | 1].contiguous()
