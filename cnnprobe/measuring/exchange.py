"""What the processes of one measurement tell each other: once, at the end, each of them."""

from typing import Any

import torch

from cnnprobe.errors import ProbeError
from cnnprobe.measuring.totals import Totals
from cnnprobe.recorder.peers import find_rank_in_group


def join_ranks(mine: Totals, error: Exception | None) -> Totals:
    """The totals of all processes together, on each of them.

    Every process comes here, also one that failed, so that none waits for it.

    Raises:
        ProbeError: another process failed.
    """
    rank, of = find_rank_in_group()
    if of < 2:
        return mine
    parts: list[Any] = [None] * of
    told = None if error is None else f"{type(error).__name__}: {error}"
    torch.distributed.all_gather_object(parts, (told, mine if error is None else {}))
    failed = next((i for i, (said, _) in enumerate(parts) if said is not None), None)
    if failed is not None and error is None:
        raise ProbeError(
            f"rank {failed} failed: {parts[failed][0]}",
            where=f"rank {rank}, which has done its part",
            fix="mend that, and start again: with a log it goes on where it was",
        )
    joined: Totals = {}
    for _, totals in parts:
        for key, total in totals.items():
            if key in joined:
                joined[key].merge(total)
            else:
                joined[key] = total
    return joined
