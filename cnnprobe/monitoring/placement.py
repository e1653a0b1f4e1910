"""Which rank this process is, and how its model is distributed; asks no other rank."""

import contextlib
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnnprobe.recorder.inventory import named_modules
from cnnprobe.recorder.peers import DDP, find_rank, find_store, is_split
from cnnprobe.recorder.preservation import is_sharded
from cnnprobe.records.ranks import RankInfo


def name_log(path: str | os.PathLike[str]) -> Path:
    """The file of this rank: "run.rank1.jsonl" for "run.jsonl", "rank1.jsonl" in a folder; the path
    itself where there is one process alone.
    """
    rank, of = find_rank()
    given = Path(path)
    if of < 2:
        return given
    if given.suffix.lower() == ".jsonl" and not given.is_dir():
        return given.with_name(f"{given.stem}.rank{rank}.jsonl")
    with contextlib.suppress(OSError):  # who opens the file says it
        given.mkdir(parents=True, exist_ok=True)
    return given / f"rank{rank}.jsonl"


def find_wrapper(model: nn.Module) -> Any:
    """The DistributedDataParallel around the model, or None."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, DDP) else None


def find_core(model: nn.Module) -> nn.Module:
    """The module whose call comes after DistributedDataParallel has sent the buffers."""
    while isinstance(model, DDP):
        model = model.module
    return model


def describe_rank(
    model: nn.Module,
    parameters: Sequence[tuple[str, Tensor]],
    buffers: Sequence[tuple[str, Tensor]],
) -> RankInfo:
    """This rank, without asking another.

    Args:
        model: as the loop calls it.
        parameters: by name.
        buffers: by name.
    """
    rank, of = find_rank()
    wrapper = find_wrapper(model)
    modules = [(fqn, module) for fqn, module, first in named_modules(model) if first]
    sharded = any(is_sharded(module) for _, module in modules)
    parts = [(name, tensor) for name, tensor in parameters if is_split(tensor)]
    waits = sharded or bool(parts) or any(isinstance(m, nn.SyncBatchNorm) for _, m in modules)
    trained = [tensor for _, tensor in parameters if tensor.requires_grad]
    return RankInfo(
        rank=rank,
        of=of,
        host=socket.gethostname(),
        wrapper="DistributedDataParallel" if wrapper is not None else "FSDP2" if sharded else "",
        options={**_read_options(wrapper), "forward_waits": waits},
        parameters=tuple(name for name, tensor in parameters if not is_split(tensor)),
        buffers=tuple(name for name, _ in buffers),
        sharded=tuple(name for name, _ in parts),
        is_copy=bool(parts) and _holds_a_copy(parts[0][1]),
        norms=tuple(fqn for fqn, module in modules if _sees_one_batch(module)),
        gradient_bytes=sum(tensor.numel() * tensor.element_size() for tensor in trained),
        run=_name_run(),
    )


def _name_run() -> str:
    """What the first rank to come has put into the store of the process group."""
    store = find_store()
    if store is not None:
        with contextlib.suppress(Exception):  # what is said of the run is no reason to end it
            return bytes(store.compare_set("cnnprobe/run", "", secrets.token_hex(4))).decode()
    return ""


def _read_options(wrapper: Any) -> dict[str, bool]:
    if wrapper is None:
        return {}
    sends = (
        "forward_sync_buffers" if hasattr(wrapper, "forward_sync_buffers") else "broadcast_buffers"
    )
    return {
        "broadcast_buffers": bool(getattr(wrapper, sends, False)),
        "find_unused_parameters": bool(getattr(wrapper, "find_unused_parameters", False)),
    }


def _sees_one_batch(module: nn.Module) -> bool:
    kind = nn.modules.batchnorm._BatchNorm
    return isinstance(module, kind) and not isinstance(module, nn.SyncBatchNorm)


def _holds_a_copy(tensor: Any) -> bool:
    """Whether another rank, of a lower number, holds the same part."""
    place = tensor.device_mesh.get_coordinate() or ()
    return any(
        each.is_replicate() and at for each, at in zip(tensor.placements, place, strict=False)
    )
