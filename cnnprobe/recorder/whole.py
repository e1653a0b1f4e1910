"""A whole copy of a model that is sharded over several ranks, which each of them can run alone.

All ranks make it together: they meet, then each gathers every parameter in the order of the model.
The user's model, its shards and its optimizer are only read.
"""

import collections
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.errors import TargetError
from cnnprobe.recorder.inventory import class_of, named_modules
from cnnprobe.recorder.peers import find_rank, is_split, meet_peers, needs_all_ranks
from cnnprobe.recorder.preservation import has_shards, is_sharded

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip
_OF_RANKS = "torch.distributed"
_MARKS = (
    "__composable_api_",
    "_is_fsdp",
    "_fsdp",
)  # attributes that fully_shard leaves on a module
_TIMES = 4  # the parameters: they, their gradients, and what an optimizer keeps of each


def gather_whole(
    model: nn.Module, optimizers: Sequence[Any], where: str
) -> tuple[nn.Module, Sequence[Any]]:
    """A copy of the model that has each parameter as a whole, and of its optimizers; the very ones
    where it is not sharded. To be called on all ranks.

    Raises:
        TargetError: it is sharded by other means than fully_shard, another rank does not come, the
            copy does not fit into the memory of a GPU, or cannot be made; then on every rank.
    """
    if not needs_all_ranks(model):
        return model, optimizers
    if not _is_sharded_alone(model):
        raise TargetError(
            "the model is split over the ranks within its layers, as by tensor parallelism: no "
            "rank can run it alone",
            where=class_of(model).__name__,
            fix=f"call {where} before it is split; cnnprobe.monitor(model) watches the split one",
        )
    meet_peers(model, where)
    _check_memory(model)
    known: dict[int, Any] = {}
    with torch.no_grad():
        _gather_parameters(model, known)
        copies = [_copy_optimizer(optimizer, known) for optimizer in optimizers]
        try:
            return _copy_modules(model, known), copies
        except Exception as error:
            raise TargetError(
                f"the model is sharded, and could not be copied: {type(error).__name__}: {error}",
                where=class_of(model).__name__,
                fix=f"call {where} before fully_shard; cnnprobe.monitor(model) watches the shards",
            ) from error


def _gather_parameters(model: nn.Module, known: dict[int, Any]) -> None:
    modules: list[Any] = [module for _, module, _ in named_modules(model)]
    for module in modules:
        if is_sharded(module):
            module.reshard()  # else a forward may have left the whole parameters in their place
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in known:
                known[id(parameter)] = nn.Parameter(_gather(parameter), parameter.requires_grad)


def _is_sharded_alone(model: nn.Module) -> bool:
    """Whether fully_shard has made every part; its own parts are put together before each call."""
    covered: set[int] = set()
    for _, module, _ in named_modules(model):
        if is_sharded(module):
            covered.update(map(id, module.parameters()))
        if any(_is_of(hook, f"{_OF_RANKS}.tensor") for hook in module._forward_pre_hooks.values()):
            return False
    return all(id(p) in covered for p in model.parameters() if is_split(p))


def _is_of(hook: Any, room: str) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(room)


def _check_memory(model: nn.Module) -> None:
    """All ranks refuse where the copy does not fit on one of them: none waits for another then."""
    needed = _TIMES * sum(p.numel() * p.element_size() for p in model.parameters())
    device = next(model.parameters()).device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else needed
    fits = torch.tensor(int(needed <= free), device=device)
    torch.distributed.all_reduce(fits, torch.distributed.ReduceOp.MIN)
    if not fits.item():
        raise TargetError(
            f"a whole copy of the model takes {needed / 2**30:.3g} GiB on each rank, and one of "
            "them has less",
            where=f"rank {find_rank()[0]} of {find_rank()[1]}",
            fix="take a smaller one of its kind; cnnprobe.monitor(model) watches the shards",
        )


def _gather(tensor: Any) -> Tensor:
    """All of a tensor of which each rank may hold a part."""
    found: Any = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    whole: Tensor = found.detach().clone()
    return whole


# -- the modules -----------------------------------------------------------------------------------


def _copy_modules(model: nn.Module, known: dict[int, Any]) -> nn.Module:
    modules = [module for _, module, first in named_modules(model) if first]
    for module in modules:
        kind = _find_kind(type(module))
        known[id(module)] = object.__new__(kind)
        for buffer in module._buffers.values():
            if buffer is not None:
                known[id(buffer)] = _gather(buffer)
    for module in modules:
        made = known[id(module)]
        made.__dict__.update(dict(_copy_attributes(module, known)))
    whole: nn.Module = known[id(model)]
    return whole


def _find_kind(kind: type) -> type:
    """The class that a module had before fully_shard."""
    while has_shards(kind):
        kind = kind.__bases__[-1]
    return kind


def _copy_attributes(module: nn.Module, known: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in module.__dict__.items():
        if name in _HOOKS:
            kept = ((k, hook) for k, hook in value.items() if not _is_of(hook, _OF_RANKS))
            yield name, collections.OrderedDict(kept)
        elif name == "_compiled_call_impl":
            yield name, None
        elif not name.startswith(_MARKS):
            yield name, copy.deepcopy(value, known)


# -- the optimizer ---------------------------------------------------------------------------------


def _copy_optimizer(optimizer: Any, known: Mapping[int, Any]) -> Any:
    """The same optimizer over the whole parameters, with its state."""
    groups = [
        {
            name: [known.get(id(p), p) for p in value] if name == "params" else copy.deepcopy(value)
            for name, value in group.items()
        }
        for group in optimizer.param_groups
    ]
    state: dict[Any, Any] = collections.defaultdict(dict)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            mine = optimizer.state.get(parameter, {})
            kept = {name: _gather_value(mine[name]) for name in sorted(mine)}
            if kept:
                state[known.get(id(parameter), parameter)] = kept
    made: Any = object.__new__(type(optimizer))
    for name, value in optimizer.__dict__.items():
        if name != "step":  # a scheduler has bound it to the user's own
            made.__dict__[name] = type(value)() if name.endswith("_hooks") else value
    made.param_groups, made.state = groups, state
    return made


def _gather_value(value: Any) -> Any:
    return _gather(value) if isinstance(value, Tensor) else copy.deepcopy(value)
