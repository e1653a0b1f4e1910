"""The other ranks of a distributed model: what one rank may do without them, and how all of them
meet before a pass that needs all.

A pass of ours uses no collective that one rank alone could enter. DistributedDataParallel hands its
input on and reduces nothing; a sharded model runs only where every rank has come.
"""

import contextlib
import itertools
import os
import time
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from cnnprobe.errors import TargetError
from cnnprobe.recorder.inventory import Entry, named_modules
from cnnprobe.recorder.preservation import is_sharded

DDP = nn.parallel.DistributedDataParallel
_TALKING = (DDP, nn.SyncBatchNorm)
PATIENCE = 20.0  # seconds that a rank waits for the others before a pass of a sharded model
_PAUSE = 0.01
_numbers = itertools.count()


def find_rank() -> tuple[int, int]:
    """The rank of this process and how many there are; (0, 1) where there is one alone."""
    if _has_group():
        return find_rank_in_group()
    try:  # what torchrun says before the process group is made
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1


def find_rank_in_group() -> tuple[int, int]:
    """The rank of this process and how many it can talk to; (0, 1) without a process group."""
    if _has_group():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def find_store() -> Any:
    """The store of the default process group; None where there is no group."""
    if not _has_group():
        return None
    return torch.distributed.distributed_c10d._get_default_store()


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_of_peers(error: BaseException | None) -> bool:
    """Whether an exception says that another rank did not answer, as one that has ended."""
    is_known = isinstance(error, torch.distributed.DistError) if _has_group() else False
    return is_known or (isinstance(error, RuntimeError) and "gloo" in str(error))


def is_split(tensor: object) -> bool:
    """Whether a tensor is a DTensor of which this rank holds a part alone."""
    placements = getattr(tensor, "placements", None)
    mesh = getattr(tensor, "device_mesh", None)
    return (
        placements is not None
        and mesh is not None
        and any(not each.is_replicate() and mesh.size(i) > 1 for i, each in enumerate(placements))
    )


def needs_all_ranks(model: nn.Module) -> bool:
    """Whether a forward pass of the model waits for the other ranks by itself."""
    if find_rank_in_group()[1] < 2:
        return False
    return any(
        first and (is_sharded(module) or any(map(is_split, module._parameters.values())))
        for _, module, first in named_modules(model)
    )


@contextlib.contextmanager
def without_peers(tree: Iterable[Entry]) -> Iterator[None]:
    """Let DistributedDataParallel, and SyncBatchNorm on a device, talk to no other rank."""
    changed = []
    for _, module, first in tree:
        forward = _find_forward(module) if first and isinstance(module, _TALKING) else None
        if forward is not None and "forward" not in module.__dict__:
            module.__dict__["forward"] = types.MethodType(forward, module)
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            module.__dict__.pop("forward", None)


def _find_forward(module: nn.Module) -> Any:
    if isinstance(module, DDP):
        return _hand_on
    if isinstance(module, nn.SyncBatchNorm) and module.training and find_rank()[1] > 1:
        on_device = module.weight is not None and module.weight.is_cuda
        # On the CPU it refuses, as it would in the user's own loop.
        return nn.modules.batchnorm._BatchNorm.forward if on_device else None
    return None


def _hand_on(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self.module(*args, **kwargs)


def meet_peers(model: nn.Module, where: str) -> None:
    """Come back on every rank as soon as all of them are here; nothing to do for a model that does
    not need the others.

    Raises:
        TargetError: on every rank that has come, where one has not within PATIENCE.
    """
    if not needs_all_ranks(model):
        return
    store, (rank, of) = find_store(), find_rank()
    key = _find_meeting(store)
    end = time.monotonic() + PATIENCE
    store.set(f"{key}/{rank}", "1")
    absent = set(range(of)) - {rank}
    while absent and time.monotonic() < end and not store.check([f"{key}/outcome"]):
        absent -= {other for other in absent if store.check([f"{key}/{other}"])}
        if absent:
            time.sleep(_PAUSE)
    # One of them decides for all: else the last to come would go on while the first has left.
    outcome = store.compare_set(f"{key}/outcome", "", "off" if absent else "on")
    if bytes(outcome) != b"on":
        missing = sorted(absent) or [other for other in range(of) if other != rank]
        named = f"rank {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
        raise TargetError(
            f"the model is sharded, and {named} did not call {where} within {PATIENCE:.0f} seconds",
            where=f"rank {rank} of {of}",
            fix=f"call {where} on all ranks at the same place of the program",
        )


def _find_meeting(store: Any) -> str:
    """A meeting that is not over: a rank that did not come to an earlier one is behind."""
    while True:
        key = f"cnnprobe/meeting{next(_numbers)}"
        if not store.check([f"{key}/outcome"]):
            return key


def describe_peers(model: nn.Module) -> Iterator[str]:
    """Whose the numbers of a pass are, in sentences; none where there is one process."""
    rank, of = find_rank()
    if of < 2:
        return
    yield (
        f"rank {rank} of {of}: inputs, outputs and their statistics are of this rank's batch alone"
    )
    if needs_all_ranks(model):
        yield (
            f"parameters are sharded over the ranks: shapes and counts are of the whole, values of "
            f"the part that rank {rank} holds, also where a layer puts out a DTensor"
        )
