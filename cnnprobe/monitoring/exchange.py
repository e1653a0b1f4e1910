"""Bytes of every rank made into one answer for all, through the store of the process group.

Each rank puts its bytes once. The first that comes reads those of all and puts the answer, which
the others read: what is sent grows with the number of ranks, not with its square. No collective:
nothing here interleaves with those of the user's, and a rank that does not come is left out after a
time limit.
"""

import contextlib
import itertools
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_PIECE = 2**22  # bytes; a store takes at most 8 MiB at once
_PAUSE = 0.02  # seconds between two looks
_GRACE = 5.0  # seconds for a store that does not answer any more
_numbers = itertools.count()


def number_monitors() -> int:
    """The number of a monitor, the same on each rank where all ranks make as many."""
    return next(_numbers)


def share(
    store: Any,
    name: str,
    data: bytes,
    combine: Callable[[dict[int, bytes]], bytes],
    *,
    who: tuple[int, int],
    seconds: float,
) -> bytes:
    """What `combine` makes of the bytes of all ranks, the same on each of them.

    Args:
        store: of torch.distributed.
        name: of the exchange, the same on all ranks, used once.
        data: of this rank.
        combine: is given the bytes of the ranks that have come in time, by rank.
        who: this rank, and how many there are.
        seconds: how long the others are waited for, and as long again their answer.
    """
    key, found, answer = f"cnnprobe/{name}", {who[0]: data}, list[bytes]()
    _run(2 * seconds, _meet, _Table(store, key, who, seconds), found, answer)
    if not answer:  # this rank reads for all, or who did has gone
        ranks = dict(sorted(found.copy().items()))
        answer = [combine(ranks)]
        _run(seconds, _hand_on, _Table(store, key, who, seconds), answer[0], len(ranks))
    return answer[0]


@dataclass(frozen=True, slots=True)
class _Table:
    """Where the ranks meet."""

    store: Any
    key: str
    who: tuple[int, int]
    seconds: float

    def wait(self, is_there: Callable[[], bool], seconds: float) -> bool:
        """Whether something comes about within the time."""
        end = time.monotonic() + seconds
        while not (found := is_there()) and time.monotonic() < end:
            time.sleep(_PAUSE)
        return found


def _run(seconds: float, work: Callable[..., None], *given: Any) -> None:
    """A store that hangs holds up a thread alone; one that is gone is none."""
    thread = threading.Thread(target=_try, args=(work, *given), daemon=True)
    thread.start()
    thread.join(seconds + _GRACE)


def _try(work: Callable[..., None], *given: Any) -> None:
    with contextlib.suppress(Exception):  # the store is gone with the process that held it
        work(*given)


def _meet(table: _Table, found: dict[int, bytes], answer: list[bytes]) -> None:
    store, key, (rank, _) = table.store, table.key, table.who
    _put(store, f"{key}/{rank}", found[rank])
    reader = store.compare_set(f"{key}/reader", "", str(rank))
    if int(reader) == rank:
        _gather(table, found, table.seconds)
    elif table.wait(lambda: store.check([f"{key}/answer"]), 2 * table.seconds):
        answer.append(_get(store, f"{key}/answer"))
        _part(table, here=int(store.get(f"{key}/here")))
    else:
        _gather(table, found, 0.0)


def _gather(table: _Table, found: dict[int, bytes], seconds: float) -> None:
    """Read what the other ranks have put."""
    store, (rank, of) = table.store, table.who
    waiting = set(range(of)) - {rank}

    def is_complete() -> bool:
        for other in sorted(waiting):
            if store.check([f"{table.key}/{other}"]):
                found[other] = _get(store, f"{table.key}/{other}")
                waiting.discard(other)
        return not waiting

    table.wait(is_complete, seconds)


def _hand_on(table: _Table, answer: bytes, here: int) -> None:
    if int(table.store.get(f"{table.key}/reader")) == table.who[0]:
        table.store.set(f"{table.key}/here", str(here))
        _put(table.store, f"{table.key}/answer", answer)
        _part(table, here=here)


def _part(table: _Table, *, here: int) -> None:
    """Leave together: the others must not lose the store before they have read the answer."""
    done = f"{table.key}/done"
    table.store.add(done, 1)
    table.wait(lambda: int(table.store.add(done, 0)) >= here, table.seconds)


def _put(store: Any, key: str, data: bytes) -> None:
    packed = zlib.compress(data, 1)
    pieces = [packed[i : i + _PIECE] for i in range(0, len(packed), _PIECE)]
    for number, piece in enumerate(pieces):
        store.set(f"{key}/{number}", piece)
    store.set(key, str(len(pieces)))  # last: who sees it finds all pieces


def _get(store: Any, key: str) -> bytes:
    pieces = range(int(store.get(key)))
    return zlib.decompress(b"".join(store.get(f"{key}/{number}") for number in pieces))
