"""Bytes from every rank to every rank, through the store of the process group.

No collective: nothing here interleaves with those of the user's, and a rank that does not come is
left out after a time limit.
"""

import contextlib
import itertools
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

_PIECE = 2**22  # bytes; a store takes at most 8 MiB at once
_PAUSE = 0.02  # seconds between two looks
_GRACE = 5.0  # seconds for a store that does not answer any more
_numbers = itertools.count()


def number_monitors() -> int:
    """The number of a monitor, the same on each rank where all ranks make as many."""
    return next(_numbers)


def exchange(
    store: Any, name: str, data: bytes, *, rank: int, of: int, seconds: float
) -> dict[int, bytes]:
    """What every rank gives under the same name, by rank; one that does not within the time is
    missing.

    Args:
        store: of torch.distributed.
        name: of the exchange, the same on all ranks, used once.
        data: of this rank.
        rank: this one.
        of: how many there are.
        seconds: how long the others are waited for.
    """
    found = {rank: data}
    work = threading.Thread(
        target=_try, args=(_exchange, store, f"cnnprobe/{name}", found, (rank, of, seconds)), daemon=True
    )  # fmt: skip
    work.start()
    work.join(seconds + _GRACE)  # a store that hangs holds up the thread alone
    return dict(sorted(found.copy().items()))


def _try(work: Callable[..., None], *args: Any) -> None:
    with contextlib.suppress(Exception):  # the store is gone with the process that held it
        work(*args)


def _exchange(store: Any, key: str, found: dict[int, bytes], who: tuple[int, int, float]) -> None:
    rank, of, seconds = who
    end = time.monotonic() + seconds
    _put(store, f"{key}/{rank}", found[rank])
    waiting = set(range(of)) - {rank}
    while waiting and time.monotonic() < end:
        here = {other for other in waiting if store.check([f"{key}/{other}"])}
        for other in here:
            found[other] = _get(store, f"{key}/{other}")
        waiting -= here
        if waiting:
            time.sleep(_PAUSE)
    store.set(f"{key}/{rank}/read", "1")
    unread = set(found) - {rank}  # those that are here must not lose the store before they are done
    while unread and time.monotonic() < end:
        unread -= {other for other in unread if store.check([f"{key}/{other}/read"])}
        if unread:
            time.sleep(_PAUSE)


def _put(store: Any, key: str, data: bytes) -> None:
    packed = zlib.compress(data, 1)
    pieces = [packed[i : i + _PIECE] for i in range(0, len(packed), _PIECE)]
    for number, piece in enumerate(pieces):
        store.set(f"{key}/{number}", piece)
    store.set(key, str(len(pieces)))  # last: who sees it finds all pieces


def _get(store: Any, key: str) -> bytes:
    pieces = range(int(store.get(key)))
    return zlib.decompress(b"".join(store.get(f"{key}/{number}") for number in pieces))
